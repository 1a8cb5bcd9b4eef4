// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

func mustParseConfig(t *testing.T, json string) Config {
	t.Helper()
	c, err := ParseConfig([]byte(json))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const fourSubnets = `{"Network":"10.0.0.0/22","Backend":{"Type":"vxlan"}}` // of which 10.0.1.0 to 10.0.3.0 are leased

func wantOf(node string) Want {
	return Want{PublicIP: addr(node), Backend: topology.EncapVXLAN, VNI: 1, MAC: mac1}
}

func vxlanValue(node string) string {
	return `{"PublicIP":"` + node + `","PublicIPv6":null,"BackendType":"vxlan",` +
		`"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}`
}

func acquire(t *testing.T, s *Store, c Config, w Want) *Held {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h, err := s.Acquire(ctx, c, w)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAcquireChoice(t *testing.T) {
	const node = "192.168.32.245"
	for _, tt := range []struct {
		name   string
		there  map[string]string // under subnets/
		prefer string
		want   []string // one of these keys
		gone   string   // a key that must be gone
	}{
		{name: "any free one", want: []string{"10.0.1.0-24", "10.0.2.0-24", "10.0.3.0-24"}},
		{name: "its own", there: map[string]string{"10.0.2.0-24": vxlanValue(node), "10.0.1.0-24": vxlanValue("192.168.32.9")},
			prefer: "10.0.3.0/24", want: []string{"10.0.2.0-24"}},
		{name: "its own of another backend", there: map[string]string{"10.0.2.0-24": `{"PublicIP":"192.168.32.245"}`},
			want: []string{"10.0.2.0-24"}},
		{name: "its own, spoilt", there: map[string]string{"10.0.2.0-24": `{"PublicIP":"192.168.32.245","BackendType":"vxlan"}`},
			want: []string{"10.0.2.0-24"}},
		{name: "its own of a network that was", there: map[string]string{"10.9.2.0-24": vxlanValue(node)},
			prefer: "10.0.3.0/24", want: []string{"10.0.3.0-24"}, gone: "10.9.2.0-24"},
		{name: "its own of another length", there: map[string]string{"10.0.2.0-25": vxlanValue(node)},
			prefer: "10.0.2.0/24", want: []string{"10.0.2.0-24"}, gone: "10.0.2.0-25"},
		{name: "the preferred", prefer: "10.0.2.0/24", want: []string{"10.0.2.0-24"}},
		{name: "the preferred by its gateway", prefer: "10.0.2.1/24", want: []string{"10.0.2.0-24"}},
		{name: "the preferred is taken", there: map[string]string{"10.0.2.0-24": vxlanValue("192.168.32.9")},
			prefer: "10.0.2.0/24", want: []string{"10.0.1.0-24", "10.0.3.0-24"}},
		{name: "the preferred is of another network", prefer: "10.9.2.0/24",
			want: []string{"10.0.1.0-24", "10.0.2.0-24", "10.0.3.0-24"}},
		{name: "the preferred is the first, which is skipped", prefer: "10.0.0.0/24",
			want: []string{"10.0.1.0-24", "10.0.2.0-24", "10.0.3.0-24"}},
		{name: "none that overlaps",
			there: map[string]string{"10.0.1.128-25": ipip("192.168.32.9"), "10.0.2.0-23": ipip("192.168.32.8")},
			want:  nil},
		{name: "none whose key is there, whatever its value",
			there:  map[string]string{"10.0.1.0-24": "x", "10.0.3.0-24&fc00::-64": "{}"},
			prefer: "10.0.1.0/24", want: []string{"10.0.2.0-24"}},
		{name: "beside rubbish",
			there:  map[string]string{"rubbish": "x", "10.0.0.0-8": ipip("192.168.32.9"), "10.0.1.0-16": "{}"},
			prefer: "10.0.2.0/24", want: []string{"10.0.2.0-24"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEtcd(t)
			for key, value := range tt.there {
				e.put("subnets/"+key, value)
			}
			s, c, w := e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf(node)
			if tt.prefer != "" {
				w.Prefer = prefix(tt.prefer)
			}
			h, err := s.Acquire(t.Context(), c, w)
			if tt.want == nil {
				if !errors.Is(err, ErrNoSubnet) {
					t.Fatalf("error is %v, want ErrNoSubnet", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l := h.Lease()
			if !strings.Contains(" "+strings.Join(tt.want, " ")+" ", " "+l.Key+" ") {
				t.Errorf("acquired %s, want one of %s", l.Key, tt.want)
			}
			if value, _ := e.get("subnets/" + l.Key); value != vxlanValue(node) {
				t.Errorf("etcd holds\n     %s\nwant %s", value, vxlanValue(node))
			}
			if value, _ := e.get("subnets/" + tt.gone); tt.gone != "" && value != "" {
				t.Errorf("%s is still there", tt.gone)
			}
		})
	}
}

// TestAcquireMoved has a node change its address: it keeps the lease it had,
// whatever else carries the new address, unless another has written it since.
func TestAcquireMoved(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	c := mustParseConfig(t, fourSubnets)
	w := wantOf("192.168.32.245")
	w.Prefer = netip.MustParsePrefix("10.0.1.0/24")
	had := acquire(t, s, c, w).Lease()
	e.put("subnets/10.0.2.0-24", vxlanValue("192.168.32.200"))

	w.PublicIP, w.Had = addr("192.168.32.200"), had
	held := acquire(t, s, c, w).Lease()
	if held.Key != had.Key || held.PublicIP != w.PublicIP || held.CreateRevision != had.CreateRevision {
		t.Errorf("%+v became %+v", had, held)
	}
	e.put("subnets/"+held.Key, vxlanValue("192.168.32.9"))
	w.PublicIP, w.Had = addr("192.168.32.201"), held
	if other := acquire(t, s, c, w).Lease(); other.Key != "10.0.3.0-24" {
		t.Errorf("took %s, want the free one", other.Key)
	}
}

// TestAcquireGrants checks the time a lease is given to live.
func TestAcquireGrants(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	h := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	_, grant := e.get("subnets/" + h.Lease().Key)
	ttl, err := e.cli.TimeToLive(t.Context(), grant)
	if err != nil || ttl.GrantedTTL != 86400 {
		t.Errorf("granted %v seconds, error %v, want 86400", ttl.GrantedTTL, err)
	}
	again := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	if again.Lease().Key != h.Lease().Key || again.Lease().CreateRevision != h.Lease().CreateRevision ||
		again.Lease().ModRevision <= h.Lease().ModRevision {
		t.Errorf("acquired again: %+v, first %+v", again.Lease(), h.Lease())
	}
	if _, next := e.get("subnets/" + h.Lease().Key); next == grant || next == 0 {
		t.Errorf("lives by grant %x, first %x: want a new one", next, grant)
	}
}

// TestAcquireKeepsReservation checks that a key without a grant, by which
// administrators give a node a fixed subnet, stays without.
func TestAcquireKeepsReservation(t *testing.T) {
	e := newEtcd(t)
	e.put("subnets/10.0.2.0-24", `{"PublicIP":"192.168.32.245"}`)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	value, grant := e.get("subnets/10.0.2.0-24")
	if h.Lease().Key != "10.0.2.0-24" || value != vxlanValue("192.168.32.245") || grant != 0 {
		t.Errorf("acquired %s, etcd holds %s by grant %x, want it without one", h.Lease().Key, value, grant)
	}
	if err := h.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if value, _ = e.get("subnets/10.0.2.0-24"); value == "" {
		t.Error("a reservation was released")
	}
}

// TestAcquireVTEPMAC checks which MAC a node goes by that finds its lease in etcd.
func TestAcquireVTEPMAC(t *testing.T) {
	const ours, theirs = "c6:d2:32:6f:8f:44", "02:00:00:00:00:01" // mac1, and what flannel made up
	vxlan := func(node, mac string) string {
		return strings.Replace(vxlanValue(node), ours, mac, 1)
	}
	for _, tt := range []struct {
		name   string
		own    string // value of the node's lease
		other  string // value of another lease
		want   string
		logged string
	}{
		{name: "flannel's is kept", own: vxlan("192.168.32.245", theirs), want: theirs, logged: "keeping the VTEP MAC"},
		{name: "its own", own: vxlan("192.168.32.245", ours), want: ours},
		{name: "in capitals", own: vxlan("192.168.32.245", "02:00:00:00:00:AB"), want: "02:00:00:00:00:ab", logged: "keeping the VTEP MAC"},
		{name: "of another VNI", own: strings.Replace(vxlan("192.168.32.245", theirs), `"VNI":1`, `"VNI":7`, 1), want: theirs,
			logged: "keeping the VTEP MAC"},
		{name: "none", own: `{"PublicIP":"192.168.32.245"}`, want: ours},
		{name: "of a group", own: vxlan("192.168.32.245", "01:00:5e:00:00:01"), want: ours},
		{name: "no MAC", own: vxlan("192.168.32.245", "x"), want: ours},
		{name: "another node's too", own: vxlan("192.168.32.245", theirs), other: vxlan("192.168.32.9", theirs), want: ours,
			logged: "another node's lease has this one's VTEP MAC"},
		{name: "of two leases of its own", own: vxlan("192.168.32.245", theirs), other: vxlan("192.168.32.245", theirs), want: theirs,
			logged: "keeping the VTEP MAC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logged
			e := newEtcd(t)
			e.put("subnets/10.0.2.0-24", tt.own)
			if tt.other != "" {
				e.put("subnets/10.0.3.0-24", tt.other)
			}
			h := acquire(t, e.open(Options{Logger: log.logger()}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
			value, _ := e.get("subnets/10.0.2.0-24")
			if got := h.Lease().MAC.String(); got != tt.want || value != vxlan("192.168.32.245", tt.want) {
				t.Errorf("holds MAC %s, etcd %s, want %s", got, value, tt.want)
			}
			if lines := log.count("VTEP MAC"); lines > 1 || (lines == 1) != (tt.logged != "") || !strings.Contains(log.String(), tt.logged) {
				t.Errorf("log is %s, want %q", &log, tt.logged)
			}
		})
	}
}

func TestAcquireErrors(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	v6 := mustParseConfig(t, onlySix)
	noMAC, inside := wantOf("192.168.32.245"), wantOf("10.0.2.9")
	noMAC.MAC = topology.MAC{}
	inside.Prefer = prefix("10.0.2.0/24")
	for _, tt := range []struct {
		name   string
		config Config
		want   Want
		err    string
	}{
		{"IPv6 alone and no PublicIPv6", v6, wantOf("192.168.32.245"), "PublicIPv6 is missing"},
		{"IPv6 alone and no MAC", v6, Want{PublicIPv6: addr("2001:db8::1"), Backend: topology.EncapVXLAN, VNI: 1}, "needs a VTEP MAC"},
		{"dual stack and no PublicIPv6", mustParseConfig(t, dualSubnets), wantOf("192.168.32.245"), "needs a VTEP MAC of its own"},
		{"no MAC", mustParseConfig(t, fourSubnets), noMAC, "needs a VTEP MAC"},
		{"no PublicIP", mustParseConfig(t, fourSubnets), Want{Backend: topology.EncapIPIP}, "PublicIP 0.0.0.0 is no node's address"},
		{"node in its own subnet", mustParseConfig(t, fourSubnets), inside, "lies in the lease's own subnet"},
	} {
		if h, err := s.Acquire(t.Context(), tt.config, tt.want); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: lease %v, error %v, want %s", tt.name, h, err, tt.err)
		}
	}
	if resp, err := e.cli.Leases(t.Context()); err != nil || len(resp.Leases) != 0 {
		t.Errorf("grants left behind: %v, error %v", resp, err)
	}
}

// TestAcquireRace has many nodes ask at once for subnets of a network with
// room for just as many.
func TestAcquireRace(t *testing.T) {
	const nodes = 50
	e := newEtcd(t)
	c := mustParseConfig(t, `{"Network":"10.0.0.0/16","SubnetMax":"10.0.50.0","Backend":{"Type":"ipip"}}`)
	held := make([]*Held, nodes)
	g, ctx := errgroup.WithContext(t.Context())
	for i := range held {
		s := e.open(Options{})
		g.Go(func() (err error) {
			held[i], err = s.Acquire(ctx, c, Want{
				PublicIP: netip.AddrFrom4([4]byte{192, 168, 0, byte(i + 1)}),
				Backend:  topology.EncapIPIP,
				Prefer:   prefix("10.0.7.0/24"), // all had the same one
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	owner := map[netip.Prefix]int{}
	for i, h := range held {
		l := h.Lease()
		if j, twice := owner[l.Subnet]; twice {
			t.Errorf("nodes %d and %d both hold %v", i, j, l.Subnet)
		}
		owner[l.Subnet] = i
		if value, _ := e.get("subnets/" + l.Key); !strings.Contains(value, `"`+l.PublicIP.String()+`"`) {
			t.Errorf("node %v holds %s, etcd says %s", l.PublicIP, l.Key, value)
		}
	}
	if _, err := e.open(Options{}).Acquire(t.Context(), c, wantOf("192.168.1.1")); !errors.Is(err, ErrNoSubnet) {
		t.Errorf("the network is full, error is %v, want ErrNoSubnet", err)
	}
	// Those who lost a race have given their grants back.
	resp, err := e.cli.Leases(t.Context())
	if err != nil || len(resp.Leases) != nodes {
		t.Errorf("%d grants, error %v, want %d", len(resp.Leases), err, nodes)
	}
}
