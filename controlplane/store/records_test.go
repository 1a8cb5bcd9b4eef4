// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const pendingValue = `{"PublicIP":"192.168.32.9","PublicIPv6":null,"BackendType":"reserved"}`

// records lists the leases by key.
func records(t *testing.T, s *Store) map[string]Record {
	t.Helper()
	all, err := s.Records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Record{}
	for _, r := range all {
		out[r.Lease.Key] = r
	}
	return out
}

func TestRecords(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	own := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245")).Lease()
	e.put("subnets/10.0.9.0-24", ipip("192.168.32.8"))
	e.put("subnets/10.0.8.0-24", pendingValue)
	e.put("subnets/rubbish", "x")
	all := records(t, s)
	if r := all[own.Key]; r.Lease != own || r.Bad != nil || r.Reserved() || time.Until(r.Expires).Round(time.Hour) != 24*time.Hour {
		t.Errorf("own lease is %+v, want %+v", r, own)
	}
	if r := all["10.0.9.0-24"]; r.Bad != nil || !r.Reserved() || !r.Expires.IsZero() {
		t.Errorf("reserved lease is %+v", r)
	}
	if r := all["10.0.8.0-24"]; !errors.Is(r.Bad, ErrPending) || r.Lease.PublicIP != addr("192.168.32.9") || r.Lease.Subnet != prefix("10.0.8.0/24") {
		t.Errorf("reservation is %+v", r)
	}
	if r := all["rubbish"]; r.Bad == nil || errors.Is(r.Bad, ErrPending) || len(all) != 4 {
		t.Errorf("%d records, rubbish is %+v", len(all), r)
	}
}

// TestReserveWhileKept has a lease reserved and freed again under a running
// daemon, which follows, and keeps the value as it is.
func TestReserveWhileKept(t *testing.T) {
	e := newEtcd(t)
	s, admin := e.open(Options{LeaseTTL: 5 * time.Second}), e.open(Options{LeaseTTL: 5 * time.Second})
	h := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	key := h.Lease().Key
	events, _ := keep(t, h, time.Second)

	if err := admin.Reserve(t.Context(), records(t, admin)[key]); err != nil {
		t.Fatal(err)
	}
	expect(t, events, Reserved, "")
	if value, grant := e.get("subnets/" + key); value != vxlanValue("192.168.32.245") || grant != 0 {
		t.Errorf("reserved, etcd holds %s by grant %x", value, grant)
	}
	ends, err := admin.Unreserve(t.Context(), records(t, admin)[key])
	if err != nil || time.Until(ends) > 5*time.Second {
		t.Fatalf("ends %v, error %v", ends, err)
	}
	expect(t, events, Limited, "")
	expect(t, events, Renewed, "") // as before it was reserved
	if value, grant := e.get("subnets/" + key); value != vxlanValue("192.168.32.245") || grant == 0 {
		t.Errorf("freed, etcd holds %s by grant %x", value, grant)
	}
}

func TestRecordChanged(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	e.put("subnets/10.0.1.0-24", ipip("192.168.32.8"))
	old := records(t, s)["10.0.1.0-24"]
	e.put("subnets/10.0.1.0-24", ipip("192.168.32.9"))
	_, unreserved := s.Unreserve(t.Context(), old)
	for what, err := range map[string]error{
		"reserve": s.Reserve(t.Context(), old), "unreserve": unreserved, "delete": s.Delete(t.Context(), old),
	} {
		if !errors.Is(err, ErrChanged) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if value, _ := e.get("subnets/10.0.1.0-24"); value != ipip("192.168.32.9") {
		t.Errorf("etcd holds %s", value)
	}
	if resp, err := e.cli.Leases(t.Context()); err != nil || len(resp.Leases) != 0 {
		t.Errorf("grants left behind: %v, error %v", resp, err)
	}
	if err := s.Delete(t.Context(), records(t, s)["10.0.1.0-24"]); err != nil {
		t.Error(err)
	}
	if left := records(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestReserveFor keeps a subnet for a node that comes later, and is served to nobody until then.
func TestReserveFor(t *testing.T) {
	e := newEtcd(t)
	s, c := e.open(Options{}), mustParseConfig(t, fourSubnets)
	e.put("subnets/10.0.1.0-24", ipip("192.168.32.8"))
	for _, tt := range []struct{ subnet, node, want string }{
		{"10.0.2.0/24", "192.168.32.9", ""},
		{"10.0.2.0/24", "192.168.32.10", "it is that of lease 10.0.2.0-24: choose a free one"},
		{"10.0.3.0/24", "192.168.32.8", "node 192.168.32.8 has lease 10.0.1.0-24: reserve that one"},
		{"10.0.3.0/24", "192.168.32.9", "node 192.168.32.9 has lease 10.0.2.0-24"},
		{"10.0.0.0/24", "192.168.32.11", "10.0.0.0/24 is no subnet of the network's: those are /24, from 10.0.1.0 to 10.0.3.0"},
		{"10.0.3.0/25", "192.168.32.11", "is no subnet of the network's"},
		{"10.0.3.1/24", "192.168.32.11", "is no subnet of the network's"},
		{"10.0.3.0/24", "10.0.3.9", "lies in the lease's own subnet"},
		{"10.0.3.0/24", "224.0.0.1", "is no node's address"},
	} {
		err := s.ReserveFor(t.Context(), c, Lease{Subnet: prefix(tt.subnet), PublicIP: addr(tt.node)})
		if (tt.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s for %s: error %v, want %q", tt.subnet, tt.node, err, tt.want)
		}
	}
	if value, grant := e.get("subnets/10.0.2.0-24"); value != pendingValue || grant != 0 {
		t.Errorf("etcd holds %s by grant %x", value, grant)
	}
	updates := watch(t, s)
	if u := receive(t, "listing", updates); len(u.Bad) != 0 || len(u.Put) != 1 {
		t.Errorf("nodes are told %s", summary(u))
	}
	// Another node leaves it alone; the one it is for takes it, and keeps it reserved.
	if l := acquire(t, s, c, wantOf("192.168.32.7")).Lease(); l.Key != "10.0.3.0-24" {
		t.Errorf("another node took %s", l.Key)
	}
	if u := receive(t, "the other node", updates); len(u.Put) != 1 {
		t.Errorf("nodes are told %s", summary(u))
	}
	if l := acquire(t, s, c, wantOf("192.168.32.9")).Lease(); l.Key != "10.0.2.0-24" {
		t.Errorf("the node took %s", l.Key)
	}
	if u := receive(t, "the node", updates); len(u.Put) != 1 || u.Put[0].Key != "10.0.2.0-24" {
		t.Errorf("nodes are told %s", summary(u))
	}
	if value, grant := e.get("subnets/10.0.2.0-24"); value != vxlanValue("192.168.32.9") || grant != 0 {
		t.Errorf("etcd holds %s by grant %x", value, grant)
	}
}

func TestFind(t *testing.T) {
	var all []Record
	for _, key := range []string{"10.0.1.0-24", "10.0.2.0-24&fc00:0:0:1::-64", "rubbish"} {
		all = append(all, Record{Lease: Lease{Key: key}})
	}
	for name, want := range map[string]string{
		"10.0.1.0/24": "10.0.1.0-24", "10.0.1.1/24": "10.0.1.0-24", "10.0.1.0-24": "10.0.1.0-24", "rubbish": "rubbish",
		"10.0.2.0/24": "10.0.2.0-24&fc00:0:0:1::-64", "fc00:0:0:1::/64": "10.0.2.0-24&fc00:0:0:1::-64",
		"10.0.1.0/25": "", "10.0.3.0/24": "", "": "", "0.0.0.0/0": "",
	} {
		r, err := Find(all, name)
		if r.Lease.Key != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, error %v, want %q", name, r.Lease.Key, err, want)
		}
	}
}

func TestReplaceConfig(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	if json, rev, err := s.ReadConfig(t.Context()); json != nil || rev != 0 || err != nil {
		t.Errorf("none: %s, %d, error %v", json, rev, err)
	}
	if err := s.ReplaceConfig(t.Context(), []byte(fourSubnets), 0); err != nil {
		t.Fatal(err)
	}
	json, rev, err := s.ReadConfig(t.Context())
	if err != nil || string(json) != fourSubnets {
		t.Fatalf("%s, error %v", json, err)
	}
	for _, stale := range []int64{0, rev - 1, rev + 1} {
		if err = s.ReplaceConfig(t.Context(), []byte(`{"Network":"10.9.0.0/16"}`), stale); !errors.Is(err, ErrChanged) {
			t.Errorf("revision %d: error %v", stale, err)
		}
	}
	if err = s.ReplaceConfig(t.Context(), []byte(`{}`), rev); !errors.Is(err, ErrBadConfig) {
		t.Errorf("bad: error %v", err)
	}
	if err = s.ReplaceConfig(t.Context(), []byte(`{"Network":"10.9.0.0/16"}`), rev); err != nil {
		t.Error(err)
	}
}

func TestDifference(t *testing.T) {
	old := mustParseConfig(t, `{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}`)
	for _, tt := range []struct {
		json   string
		want   []string
		speaks bool
	}{
		{`{"Network":"10.0.0.0/16","Backend":{"Type":"VXLAN","Port":8472}}`, nil, true},
		{`{"Network":"10.0.0.0/14","Backend":{"Type":"vxlan","MTU":1400}}`, []string{
			"Network: 10.0.0.0/16 -> 10.0.0.0/14", "SubnetMax: 10.0.255.0 -> 10.3.255.0", "Backend.MTU: 0 -> 1400"}, true},
		{`{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan","VNI":2}}`, []string{"Backend.VNI: 1 -> 2"}, false},
		{`{"Network":"10.0.0.0/16","Backend":{"Type":"host-gw"}}`, []string{
			"Backend.Type: vxlan -> host-gw", "Backend.VNI: 1 -> 0", "Backend.Port: 8472 -> 0"}, false},
		{`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}`, []string{
			"EnableIPv4: true -> false", "Network: 10.0.0.0/16 -> none", "SubnetLen: 24 -> 0",
			"SubnetMin: 10.0.1.0 -> none", "SubnetMax: 10.0.255.0 -> none", "EnableIPv6: false -> true",
			"IPv6Network: none -> fc00::/62", "IPv6SubnetLen: 0 -> 64",
			"IPv6SubnetMin: none -> fc00:0:0:1::", "IPv6SubnetMax: none -> fc00:0:0:3::"}, false},
	} {
		c := mustParseConfig(t, tt.json)
		if diff := cmp.Diff(tt.want, c.Difference(old)); diff != "" || c.Speaks(old) != tt.speaks {
			t.Errorf("%s: speaks: %v; (-want +got)\n%s", tt.json, c.Speaks(old), diff)
		}
	}
	if got := old.Difference(Config{}); len(got) == 0 || got[1] != "Network: none -> 10.0.0.0/16" {
		t.Errorf("the first config: %q", got)
	}
	if s := fmt.Sprint(Config{}.Fits(prefix("10.0.0.0/24"))); s != "false" {
		t.Error("a config of nothing has a subnet")
	}
}
