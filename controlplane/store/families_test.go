// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Networks with three subnets to lease: 10.0.1.0 to 10.0.3.0, fc00:0:0:1:: to fc00:0:0:3::.
const (
	dualSubnets = `{"EnableIPv6":true,"Network":"10.0.0.0/22","IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}`
	onlySix     = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}`
)

var mac6 = topology.MAC{0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x66}

// dualWant is of the node 192.168.32.N, 2001:db8::N.
func dualWant(n string) Want {
	return Want{
		PublicIP: addr("192.168.32." + n), PublicIPv6: addr("2001:db8::" + n),
		Backend: topology.EncapVXLAN, VNI: 1, MAC: mac1, MACv6: mac6,
	}
}

// dualValue is what flanneld 0.28.4 writes for that node.
func dualValue(n string) string {
	return `{"PublicIP":"192.168.32.` + n + `","PublicIPv6":"2001:db8::` + n + `","BackendType":"vxlan",` +
		`"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:66"}}`
}

func sixValue(n string) string {
	return `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::` + n + `","BackendType":"vxlan",` +
		`"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:66"}}`
}

// TestAcquireFamilies holds which subnets a node gets in networks with IPv6, by
// what is in etcd, and what it writes there.
func TestAcquireFamilies(t *testing.T) {
	const any4, any6 = "10.0.1.0-24 10.0.2.0-24 10.0.3.0-24", "fc00:0:0:1::-64 fc00:0:0:2::-64 fc00:0:0:3::-64"
	const dual = "10.0.1.0-24&fc00:0:0:1::-64 10.0.2.0-24&fc00:0:0:2::-64 10.0.3.0-24&fc00:0:0:3::-64"
	six := func(keys string) string { return "0.0.0.0-0&" + strings.ReplaceAll(keys, " ", " 0.0.0.0-0&") }
	for _, tt := range []struct {
		name            string
		config          string
		there           map[string]string // under subnets/
		prefer, prefer6 string
		want            string // one of these keys; "" for none
		value           string
		gone            string // a key that must be gone
		reserved        bool
	}{
		{name: "two that go together", config: dualSubnets, want: dual},
		{name: "its own", config: dualSubnets, there: map[string]string{"10.0.2.0-24&fc00:0:0:3::-64": dualValue("245")},
			prefer: "10.0.1.0/24", prefer6: "fc00:0:0:1::/64", want: "10.0.2.0-24&fc00:0:0:3::-64", reserved: true},
		{name: "its own by its IPv6 address", config: dualSubnets,
			there: map[string]string{"10.0.2.0-24&fc00:0:0:3::-64": strings.Replace(dualValue("245"), "192.168.32.245", "192.168.32.7", 1)},
			want:  "10.0.2.0-24&fc00:0:0:3::-64", reserved: true},
		{name: "the preferred", config: dualSubnets, prefer: "10.0.2.0/24", prefer6: "fc00:0:0:3::/64", want: "10.0.2.0-24&fc00:0:0:3::-64"},
		{name: "the preferred IPv6 is taken", config: dualSubnets, prefer: "10.0.2.0/24", prefer6: "fc00:0:0:3::/64",
			there: map[string]string{"10.0.1.0-24&fc00:0:0:3::-64": dualValue("9")}, want: "10.0.2.0-24&fc00:0:0:2::-64"},
		{name: "the IPv6 one that goes with it is taken", config: dualSubnets, prefer: "10.0.2.0/24",
			there: map[string]string{"10.0.1.0-24&fc00:0:0:2::-64": dualValue("9")},
			want:  "10.0.2.0-24&fc00:0:0:1::-64 10.0.2.0-24&fc00:0:0:3::-64"},
		{name: "beside one of IPv6 alone", config: dualSubnets, prefer: "10.0.2.0/24",
			there: map[string]string{"0.0.0.0-0&fc00:0:0:2::-63": sixValue("9")}, want: "10.0.2.0-24&fc00:0:0:1::-64"},
		{name: "no IPv6 is left", config: dualSubnets,
			there: map[string]string{"0.0.0.0-0&fc00:0:0:2::-63": sixValue("9"), "10.0.1.0-24&fc00:0:0:1::-64": "x"}},
		{name: "IPv6 is new: the IPv4 subnet stays", config: dualSubnets, there: map[string]string{"10.0.2.0-24": vxlanValue("192.168.32.245")},
			want: "10.0.2.0-24&fc00:0:0:2::-64", gone: "10.0.2.0-24", reserved: true},
		{name: "IPv6 is gone", config: fourSubnets, there: map[string]string{"10.0.2.0-24&fc00:0:0:2::-64": dualValue("245")},
			want: "10.0.2.0-24", value: vxlanValue("192.168.32.245"), gone: "10.0.2.0-24&fc00:0:0:2::-64", reserved: true},
		{name: "IPv6 is another", config: dualSubnets, there: map[string]string{"10.0.2.0-24&fd00:0:0:2::-64": dualValue("245")},
			want: "10.0.2.0-24&fc00:0:0:2::-64", gone: "10.0.2.0-24&fd00:0:0:2::-64", reserved: true},
		{name: "IPv4 is another: the IPv6 subnet stays", config: dualSubnets, there: map[string]string{"10.9.2.0-24&fc00:0:0:2::-64": dualValue("245")},
			want: strings.ReplaceAll(any4, "-24", "-24&fc00:0:0:2::-64"), gone: "10.9.2.0-24&fc00:0:0:2::-64"},
		{name: "IPv6 alone", config: onlySix, want: six(any6), value: sixValue("245")},
		{name: "IPv6 alone, the preferred", config: onlySix, prefer6: "fc00:0:0:3::1/64", want: six("fc00:0:0:3::-64"), value: sixValue("245")},
		{name: "IPv6 alone, its own", config: onlySix, there: map[string]string{six("fc00:0:0:2::-64"): sixValue("245")},
			want: six("fc00:0:0:2::-64"), value: sixValue("245"), reserved: true},
		{name: "IPv6 alone, others' too", config: onlySix,
			there: map[string]string{six("fc00:0:0:2::-64"): sixValue("9"), "10.0.2.0-24&fc00:0:0:1::-64": dualValue("10")},
			want:  six("fc00:0:0:3::-64"), value: sixValue("245")},
		{name: "IPv4 is gone", config: onlySix, there: map[string]string{"10.0.2.0-24&fc00:0:0:3::-64": dualValue("245")},
			want: six("fc00:0:0:3::-64"), value: sixValue("245"), gone: "10.0.2.0-24&fc00:0:0:3::-64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEtcd(t)
			for key, value := range tt.there {
				e.put("subnets/"+key, value)
			}
			w := dualWant("245")
			if tt.prefer != "" {
				w.Prefer = prefix(tt.prefer)
			}
			if tt.prefer6 != "" {
				w.Prefer6 = prefix(tt.prefer6)
			}
			h, err := e.open(Options{}).Acquire(t.Context(), mustParseConfig(t, tt.config), w)
			if tt.want == "" {
				if !errors.Is(err, ErrNoSubnet) {
					t.Fatalf("error is %v, want ErrNoSubnet", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l := h.Lease()
			if !strings.Contains(" "+tt.want+" ", " "+l.Key+" ") || leaseKey(l.Subnet, l.Subnet6) != l.Key {
				t.Errorf("acquired %s (%v, %v), want one of %s", l.Key, l.Subnet, l.Subnet6, tt.want)
			}
			if tt.value == "" {
				tt.value = dualValue("245")
			}
			value, grant := e.get("subnets/" + l.Key)
			if value != tt.value {
				t.Errorf("etcd holds\n     %s\nwant %s", value, tt.value)
			}
			if (grant == 0) != tt.reserved { // what a test puts has no time limit
				t.Errorf("lives by grant %x, want one: %t", grant, !tt.reserved)
			}
			if value, _ := e.get("subnets/" + tt.gone); tt.gone != "" && value != "" {
				t.Errorf("%s is still there", tt.gone)
			}
		})
	}
}

// TestAcquireDualResumes: a session after another goes on with both subnets,
// and nothing is written.
func TestAcquireDualResumes(t *testing.T) {
	e := newEtcd(t)
	s, c, w := e.open(Options{}), mustParseConfig(t, dualSubnets), dualWant("245")
	w.Had = acquire(t, s, c, w).Lease()
	if again := acquire(t, s, c, w).Lease(); again != w.Had {
		t.Errorf("%+v became %+v", w.Had, again)
	}
	w.PublicIPv6 = addr("2001:db8::246") // renumbered
	again := acquire(t, s, c, w).Lease()
	if again.Key != w.Had.Key || again.PublicIPv6 != w.PublicIPv6 || again.CreateRevision != w.Had.CreateRevision {
		t.Errorf("%+v became %+v", w.Had, again)
	}
}

// TestAcquireZeroChecksum: what a node says of UDP checksums is what it takes now, whatever it said
// before, and flannel's record but for that field.
func TestAcquireZeroChecksum(t *testing.T) {
	e := newEtcd(t)
	s, w := e.open(Options{}), dualWant("245")
	const key = "subnets/10.0.2.0-24&fc00:0:0:2::-64"
	e.put(key, dualValue("245")) // of flanneld
	saying := strings.Replace(dualValue("245"), `8f:66"`, `8f:66","UDP6ZeroChecksumRx":true`, 1)
	for _, want := range []string{saying, dualValue("245"), saying} {
		w.ZeroChecksum6 = want == saying
		l := acquire(t, s, mustParseConfig(t, dualSubnets), w).Lease()
		if value, _ := e.get(key); value != want || l.ZeroChecksum6 != w.ZeroChecksum6 {
			t.Errorf("wants %t: holds %+v, etcd %s", w.ZeroChecksum6, l, value)
		}
		w.Had = l
	}
	w.Had = Lease{}
	if l := acquire(t, s, mustParseConfig(t, fourSubnets), w).Lease(); l.ZeroChecksum6 {
		t.Errorf("in a network of IPv4: %+v", l)
	}
}

// TestAcquireKeepsBothMACs: flannel's nodes follow a changed MAC of neither family.
func TestAcquireKeepsBothMACs(t *testing.T) {
	e := newEtcd(t)
	theirs := strings.NewReplacer("8f:44", "8f:01", "8f:66", "8f:02").Replace(dualValue("245"))
	e.put("subnets/10.0.2.0-24&fc00:0:0:2::-64", theirs)
	l := acquire(t, e.open(Options{}), mustParseConfig(t, dualSubnets), dualWant("245")).Lease()
	if value, _ := e.get("subnets/" + l.Key); value != theirs || l.MAC[5] != 1 || l.MACv6[5] != 2 {
		t.Errorf("holds MACs %s and %s, etcd %s", l.MAC, l.MACv6, value)
	}
}

// TestAcquireIPIPFamilies: ipip nodes may have an address of the other family
// alone; both are published, for peers that have one of the two.
func TestAcquireIPIPFamilies(t *testing.T) {
	four := `{"Network":"10.0.0.0/22","Backend":{"Type":"ipip"}}`
	six := `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"ipip"}}`
	for _, tt := range []struct{ config, v4, v6, want string }{
		{four, "192.168.32.245", "", `{"PublicIP":"192.168.32.245","PublicIPv6":null,"BackendType":"ipip"}`},
		{four, "192.168.32.245", "2001:db8::245", `{"PublicIP":"192.168.32.245","PublicIPv6":"2001:db8::245","BackendType":"ipip"}`},
		{four, "", "2001:db8::245", `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::245","BackendType":"ipip"}`},
		{six, "192.168.32.245", "", `{"PublicIP":"192.168.32.245","PublicIPv6":null,"BackendType":"ipip"}`},
	} {
		e := newEtcd(t)
		w := Want{Backend: topology.EncapIPIP}
		w.PublicIP, _ = netip.ParseAddr(tt.v4)
		w.PublicIPv6, _ = netip.ParseAddr(tt.v6)
		s, c := e.open(Options{}), mustParseConfig(t, tt.config)
		l := acquire(t, s, c, w).Lease()
		value, _ := e.get("subnets/" + l.Key)
		if read, err := ParseLease(l.Key, []byte(value)); value != tt.want || err != nil || read.Node() != l.Node() {
			t.Errorf("etcd holds\n     %s (%v)\nwant %s", value, err, tt.want)
		}
		if again := acquire(t, s, c, w).Lease(); again.Key != l.Key {
			t.Errorf("%s: then acquired %s, first %s", tt.config, again.Key, l.Key)
		}
	}
}

// TestAcquireDualRace has many nodes ask at once, of which some want an IPv6
// subnet that goes with another IPv4 one, and none is left over.
func TestAcquireDualRace(t *testing.T) {
	const nodes = 50
	e := newEtcd(t)
	c := mustParseConfig(t, `{"EnableIPv6":true,"Network":"10.0.0.0/16","SubnetMax":"10.0.50.0",
		"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:32::","Backend":{"Type":"host-gw"}}`)
	held := make([]*Held, nodes)
	g, ctx := errgroup.WithContext(t.Context())
	for i := range held {
		s := e.open(Options{})
		w := Want{
			PublicIP:   netip.AddrFrom4([4]byte{192, 168, 0, byte(i + 1)}),
			PublicIPv6: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i + 1)}),
			Backend:    topology.EncapNone,
		}
		if i%4 == 0 {
			w.Prefer6 = prefix("fc00:0:0:7::/64")
		}
		g.Go(func() (err error) {
			held[i], err = s.Acquire(ctx, c, w)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	owner := map[netip.Prefix]int{}
	for i, h := range held {
		for _, p := range []netip.Prefix{h.Lease().Subnet, h.Lease().Subnet6} {
			if j, twice := owner[p]; twice || !c.Fits(p) {
				t.Errorf("node %d holds %v, as node %d does (%t)", i, p, j, twice)
			}
			owner[p] = i
		}
	}
}

// TestKeepDual: a lease that is gone is put back with both subnets, unless
// another has one of them by now.
func TestKeepDual(t *testing.T) {
	e := newEtcd(t)
	s, c := e.open(Options{}), mustParseConfig(t, dualSubnets)
	h := acquire(t, s, c, dualWant("245"))
	l := h.Lease()
	events, _ := keep(t, h, time.Hour)
	e.delete("subnets/" + l.Key)
	if got := expect(t, events, Recreated, "").Lease.Key; got != l.Key {
		t.Errorf("put back %s, was %s", got, l.Key)
	}
	taken := leaseKey(prefix("10.9.9.0/24"), l.Subnet6)
	_, err := e.cli.Txn(t.Context()).Then(
		clientv3.OpDelete(s.subnets+l.Key), clientv3.OpPut(s.subnets+taken, dualValue("9"))).Commit()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Lost, taken)
}

func TestBeside(t *testing.T) {
	for _, tt := range []struct{ config, subnet, want string }{
		{dualSubnets, "10.0.2.0/24", "fc00:0:0:2::/64"},
		{dualSubnets, "10.0.0.0/24", "fc00::/64"},
		{`{"EnableIPv6":true,"Network":"10.0.0.0/8","IPv6Network":"fc00::/56","Backend":{"Type":"vxlan"}}`, "10.0.255.0/24", "fc00:0:0:ff::/64"},
		{`{"EnableIPv6":true,"Network":"10.0.0.0/8","IPv6Network":"fc00::/56","Backend":{"Type":"vxlan"}}`, "10.1.0.0/24", "invalid Prefix"},
		{`{"EnableIPv6":true,"Network":"10.0.0.0/8","IPv6Network":"fc00::/32","IPv6SubnetLen":124,"Backend":{"Type":"vxlan"}}`,
			"10.1.2.0/24", "fc00::1020/124"},
		{fourSubnets, "10.0.2.0/24", "invalid Prefix"},
	} {
		if got := mustParseConfig(t, tt.config).beside(prefix(tt.subnet)); got.String() != tt.want {
			t.Errorf("%s in %s: %v, want %s", tt.subnet, tt.config, got, tt.want)
		}
	}
}

// TestReserveForDual keeps subnets of both families; and where only that of
// IPv4 is kept, the node gets another one beside it when it comes.
func TestReserveForDual(t *testing.T) {
	e := newEtcd(t)
	s, c := e.open(Options{}), mustParseConfig(t, dualSubnets)
	for _, tt := range []struct {
		lease Lease
		want  string
	}{
		{Lease{Subnet: prefix("10.0.2.0/24"), Subnet6: prefix("fc00:0:0:3::/64"), PublicIP: addr("192.168.32.9")}, ""},
		{Lease{Subnet: prefix("10.0.1.0/24"), Subnet6: prefix("fc00:0:0:3::/64"), PublicIP: addr("192.168.32.10")},
			"it is that of lease 10.0.2.0-24&fc00:0:0:3::-64: choose a free one"},
		{Lease{Subnet: prefix("10.0.1.0/24"), Subnet6: prefix("fc00::/64"), PublicIP: addr("192.168.32.10")},
			"fc00::/64 is no subnet of the network's: those are /64, from fc00:0:0:1:: to fc00:0:0:3::"},
		{Lease{Subnet: prefix("10.0.1.0/24"), PublicIP: addr("192.168.32.10")}, ""},
		{Lease{Subnet6: prefix("fc00:0:0:1::/64"), PublicIPv6: addr("fc00:0:0:1::9")}, "lies in the lease's own subnet"},
	} {
		err := s.ReserveFor(t.Context(), c, tt.lease)
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want %q", tt.lease, err, tt.want)
		}
	}
	if l := acquire(t, s, c, dualWant("9")).Lease(); l.Key != "10.0.2.0-24&fc00:0:0:3::-64" {
		t.Errorf("the first node took %s", l.Key)
	}
	l := acquire(t, s, c, dualWant("10")).Lease()
	if value, grant := e.get("subnets/" + l.Key); l.Key != "10.0.1.0-24&fc00:0:0:1::-64" || grant != 0 || value != dualValue("10") {
		t.Errorf("the second node took %s: %s by grant %x", l.Key, value, grant)
	}
}

// TestAcquireRacesBesideAnother: between a node's listing and its writing another
// takes the IPv6 subnet beside another IPv4 one, which no key of the node's tells.
func TestAcquireRacesBesideAnother(t *testing.T) {
	e := newEtcd(t)
	s, c := e.open(Options{}), mustParseConfig(t, dualSubnets)
	_, listed, err := s.claims(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.put("subnets/10.0.1.0-24&fc00:0:0:2::-64", dualValue("9"))
	l := dualWant("245").lease(c)
	l.Subnet, l.Subnet6, l.Key = prefix("10.0.2.0/24"), prefix("fc00:0:0:2::/64"), "10.0.2.0-24&fc00:0:0:2::-64"
	h := &Held{store: s, config: c, lease: l}
	if err = h.write(t.Context(), h.absent(listed.at.revision)); !errors.Is(err, errRaced) {
		t.Errorf("error %v, want %v", err, errRaced)
	}
	if value, _ := e.get("subnets/" + l.Key); value != "" {
		t.Errorf("etcd holds %s", value)
	}
	if got := acquire(t, s, c, dualWant("245")).Lease(); got.Subnet6 == l.Subnet6 {
		t.Errorf("acquired %s", got.Key)
	}
}
