// SPDX-License-Identifier: Apache-2.0

//go:build root

package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/bpf"
)

func testHost(node string) Host {
	a := netip.MustParseAddr(node)
	return Host{Node: a, NextHop: a, Ifindex: 2, MTU: 1480, Encap: bpf.DatapathEncapENCAP_IPIP, HeaderLen: 20}
}

// checkTable compares what a table holds with what is wanted.
func checkTable[K comparable, V any, WK, WV comparable](t *testing.T, table *Table[K, V, WK, WV], want map[K]V) {
	t.Helper()
	got, err := table.All()
	must(t, err)
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("%s: %s", table.name, diff)
	}
	if u, err := table.Usage(); err != nil || u.Used != len(want) || u.Max != table.Max() {
		t.Errorf("%s: usage %+v, %v, of %d entries", table.name, u, err, len(want))
	}
}

func TestTables(t *testing.T) {
	set := newTestSet(t, nil)
	a, v6 := netip.MustParseAddr("172.245.0.2"), netip.MustParseAddr("2001:db8::2")
	mac, gateway := MAC{0xc6, 1}, MAC{0xc6, 2}

	must(t, set.Nodes.Put(a, 2))
	must(t, set.Nodes.Put(v6, 3))
	must(t, set.Nodes.Put(a, 4))
	checkTable(t, &set.Nodes.Table, map[netip.Addr]uint32{a: 4, v6: 3})
	must(t, set.Nodes.Delete(a))
	must(t, set.Nodes.Delete(a)) // not there
	checkTable(t, &set.Nodes.Table, map[netip.Addr]uint32{v6: 3})

	must(t, set.Neigh.Put(0, a, mac))
	must(t, set.Neigh.Put(1, a, gateway))
	checkTable(t, &set.Neigh.Table, map[AddrKey]MAC{{0, a}: mac, {1, a}: gateway})
	must(t, set.Neigh.Delete(0, a))
	checkTable(t, &set.Neigh.Table, map[AddrKey]MAC{{1, a}: gateway})

	must(t, set.FDB.Put(1, mac, 2))
	must(t, set.FDB.Put(2, mac, 3))
	checkTable(t, &set.FDB.Table, map[FDBKey]uint32{{1, mac}: 2, {2, mac}: 3})
	must(t, set.FDB.Delete(1, mac))
	checkTable(t, &set.FDB.Table, map[FDBKey]uint32{{2, mac}: 3})

	endpoint := Endpoint{Ifindex: 9, MAC: mac, Gateway: gateway}
	must(t, set.Endpoints.Put(0, a, endpoint))
	checkTable(t, &set.Endpoints.Table, map[AddrKey]Endpoint{{0, a}: endpoint})
	must(t, set.Endpoints.Delete(0, a))
	checkTable(t, &set.Endpoints.Table, map[AddrKey]Endpoint{})
}

func TestHosts(t *testing.T) {
	hosts := newTestSet(t, nil).Hosts
	one, two := testHost("192.168.32.246"), testHost("192.168.32.247")
	must(t, hosts.Put(1, one))
	must(t, hosts.Put(16383, two))
	checkTable(t, &hosts.Table, map[uint32]Host{1: one, 16383: two})
	if got, ok, err := hosts.Get(16383); err != nil || !ok || got != two {
		t.Errorf("Get(16383) = %+v, %t, %v", got, ok, err)
	}
	must(t, hosts.Delete(1))
	checkTable(t, &hosts.Table, map[uint32]Host{16383: two})
	if got, ok, err := hosts.Get(1); err != nil || ok {
		t.Errorf("Get(1) of a deleted entry = %+v, %t, %v", got, ok, err)
	}
	if err := hosts.Put(0, one); err == nil {
		t.Error("an entry was put under HOST_NONE")
	}
	if err := hosts.Put(2, Host{}); err == nil {
		t.Error("an empty entry was put")
	}
}

// TestFull fills each map and wants to be told which flag helps.
func TestFull(t *testing.T) {
	set := newTestSet(t, sizes{"hosts": 2, "nodes": 2, "neigh": 2, "fdb": 2, "endpoints": 2})
	a := netip.MustParseAddr("172.245.0.0")
	next := func() netip.Addr { a = a.Next(); return a }
	for name, tt := range map[string]struct {
		put  func(i uint32) error
		flag string
	}{
		"hosts":     {func(i uint32) error { return set.Hosts.Put(i, testHost("192.168.32.246")) }, "--max-hosts"},
		"nodes":     {func(i uint32) error { return set.Nodes.Put(next(), i) }, "--max-hosts"},
		"neigh":     {func(uint32) error { return set.Neigh.Put(0, next(), MAC{1}) }, "--max-neighbours"},
		"fdb":       {func(i uint32) error { return set.FDB.Put(1, MAC{byte(i)}, i) }, "--max-neighbours"},
		"endpoints": {func(uint32) error { return set.Endpoints.Put(0, next(), Endpoint{}) }, "--max-endpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			for i := uint32(1); i <= 3 && err == nil; i++ {
				err = tt.put(i)
			}
			var full *FullError
			if !errors.Is(err, ErrFull) || !errors.As(err, &full) {
				t.Fatalf("the third entry of two: %v", err)
			}
			if want := (FullError{name, 2, tt.flag}); *full != want {
				t.Errorf("%+v, want %+v", *full, want)
			}
		})
	}
}

// TestBadEntries holds that what does not decode is told of, and hides nothing.
func TestBadEntries(t *testing.T) {
	datapath := newMaps(t, settingsFor(testNetwork, testBits), nil)
	set := setOf(t, datapath)
	good := Route{Prefix: netip.MustParsePrefix("172.246.0.0/16"), Host: 2}
	must(t, set.Routes.Put(good))
	bad := bpf.DatapathRouteKey{PrefixLen: 7, Network: 0xaa}
	must(t, datapath["routes"].Put(&bad, uint32(9)))

	all, err := set.Routes.All()
	must(t, err)
	if diff := cmp.Diff([]Route{good}, all, comparePrefixes); diff != "" {
		t.Error(diff)
	}
	entries, err := set.Routes.Entries()
	must(t, err)
	if len(entries) != 2 || entries[0].Bad != nil || entries[1].Bad == nil {
		t.Fatalf("Entries = %+v, want the good one, then the bad one", entries)
	}
	got := entries[1].Bad
	if got.Reason.Error() != "prefix_len 7, not 32 to 160" || len(got.Key) != 24 || got.Key[0] != 7 || got.Value[0] != 9 {
		t.Errorf("bad entry %v: % x: % x", got.Reason, got.Key, got.Value)
	}

	must(t, set.Hosts.Put(2, testHost("192.168.32.246")))
	must(t, datapath["hosts"].Put(uint32(3), &bpf.DatapathHost{HeaderLen: 99}))
	hosts, err := set.Hosts.Entries()
	must(t, err)
	if len(hosts) != 2 || hosts[0].Key != 2 || hosts[1].Bad == nil {
		t.Errorf("hosts: %+v, want a good one, then a bad one", hosts)
	}
}

// TestScan compares batches with one entry at a time, in maps of nothing, about one batch, and two.
func TestScan(t *testing.T) {
	for _, n := range []uint32{0, 1, batchSize - 1, batchSize, batchSize + 1, 2 * batchSize} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			datapath := newMaps(t, bpf.DatapathSettings{}, sizes{"hosts": max(1, n)})
			set := setOf(t, datapath)
			for i := range n {
				a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, i)))
				must(t, set.Nodes.Put(a, i+1))
				must(t, set.Routes.Put(Route{Prefix: netip.PrefixFrom(a, 32), Host: i + 1}))
			}
			testScan[bpf.DatapathAddr, uint32](t, datapath["nodes"], int(n))
			testScan[bpf.DatapathRouteKey, uint32](t, datapath["routes"], int(n))
			testScan[uint32, bpf.DatapathHost](t, datapath["hosts"], int(max(1, n)))
		})
	}
}

func testScan[K, V comparable](t *testing.T, m *ebpf.Map, want int) {
	t.Helper()
	batches, singly := map[K]V{}, map[K]V{}
	must(t, scanBatches(m, func(k K, v V) { batches[k] = v }))
	must(t, scanSingly(m, func(k K, v V) { singly[k] = v }))
	if len(batches) != want || !maps.Equal(batches, singly) {
		t.Errorf("%v: %d entries in batches, %d singly, want %d and the same", m, len(batches), len(singly), want)
	}
}

// TestRoutesIndexWhole fills every slot of a large network.
func TestRoutesIndexWhole(t *testing.T) {
	s := settingsFor(netip.MustParsePrefix("10.0.0.0/8"), 24)
	routes := setOf(t, newMaps(t, s, nil)).Routes
	const n = 1 << 16
	want := make([]Route, n)
	for i := range uint32(n) {
		want[i] = Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24), Host: i + 1}
		must(t, routes.Put(want[i]))
	}
	all, err := routes.All()
	must(t, err)
	if !slices.Equal(all, want) {
		t.Errorf("%d routes, not the %d that were put", len(all), n)
	}
}

// BenchmarkRoutesAll lists the routes of 65,536 slots, and a million of the trie.
func BenchmarkRoutesAll(b *testing.B) {
	for _, bb := range []struct {
		name   string
		bits   int
		routes uint32
	}{{"index", 24, 1 << 16}, {"trie", 32, 1 << 20}} {
		b.Run(bb.name, func(b *testing.B) {
			s := settingsFor(netip.MustParsePrefix("10.0.0.0/8"), 24)
			routes := setOf(b, newMaps(b, s, sizes{"routes": 1 << 20})).Routes
			for i := range bb.routes {
				a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24+i<<(32-bb.bits))))
				must(b, routes.Put(Route{Prefix: netip.PrefixFrom(a, bb.bits), Host: 2}))
			}
			for b.Loop() {
				if all, err := routes.All(); err != nil || len(all) != int(bb.routes) {
					b.Fatalf("%d routes, %v", len(all), err)
				}
			}
		})
	}
}
