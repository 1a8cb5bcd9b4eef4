// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The node of these tests is 192.168.32.245 with 172.245.0.0/24 out of
// 172.244.0.0/14. Nodes of 192.168.32.0/24 are on its link, those of 10.0.0.0/8
// behind a router; to all others there is no way.
var (
	network = netip.MustParsePrefix("172.244.0.0/14")
	router  = addr("192.168.32.1")
	selfKey = "172.245.0.0-24"
	selfMAC = MAC{0x02, 0, 0, 0, 0, 0x01}
	macA    = MAC{0x02, 0, 0, 0, 0, 0x0a}
	macB    = MAC{0x02, 0, 0, 0, 0, 0x0b}
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// anyAddr is addr, and the zero Addr for "".
func anyAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

func path(node netip.Addr) (Path, error) {
	switch {
	case prefix("192.168.32.0/24").Contains(node):
		return Path{Ifindex: 2, NextHop: node, MTU: 1500}, nil
	case prefix("10.0.0.0/8").Contains(node):
		return Path{Ifindex: 2, NextHop: router, MTU: 1400}, nil
	}
	return Path{}, errors.New("network is unreachable")
}

// input is of a vxlan network with these leases.
func input(leases ...Lease) Input {
	return Input{
		Network: network,
		Self: Self{
			Subnet: prefix("172.245.0.0/24"), Node: addr("192.168.32.245"), Uplink: 2,
			Encap: EncapVXLAN, VTEP: VTEP{MAC: selfMAC, Addr: addr("172.245.0.0")}, VNI: 1, Port: 8472, MTU: 1450,
		},
		SelfKey: selfKey, Public: []netip.Addr{addr("192.168.32.245")}, Leases: leases, Path: path,
	}
}

// lease is "172.246.0.0/24 192.168.32.246", with macA and VNI 1, changed by the given functions.
func lease(subnetAndNode string, with ...func(*Lease)) Lease {
	subnet, node, _ := strings.Cut(subnetAndNode, " ")
	l := Lease{
		Key: strings.ReplaceAll(subnet, "/", "-"), Subnet: prefix(subnet), Node: addr(node),
		Encap: EncapVXLAN, MAC: macA, VNI: 1, Created: 10, Modified: 10,
	}
	for _, f := range with {
		f(&l)
	}
	return l
}

func mac(m MAC) func(*Lease)        { return func(l *Lease) { l.MAC = m } }
func vni(v uint32) func(*Lease)     { return func(l *Lease) { l.VNI = v } }
func encap(e Encap) func(*Lease)    { return func(l *Lease) { l.Encap = e } }
func created(r int64) func(*Lease)  { return func(l *Lease) { l.Created = r } }
func modified(r int64) func(*Lease) { return func(l *Lease) { l.Modified = r } }
func key(k string) func(*Lease)     { return func(l *Lease) { l.Key = k } }
func node(a string) func(*Lease)    { return func(l *Lease) { l.Node = anyAddr(a) } }
func other(a string) func(*Lease)   { return func(l *Lease) { l.Other = anyAddr(a) } }
func subnet(p string) func(*Lease)  { return func(l *Lease) { l.Subnet = prefix(p) } }

func backend(e Encap) func(*Input) {
	return func(in *Input) {
		in.Self.Encap = e
		for i := range in.Leases {
			in.Leases[i].Encap, in.Leases[i].MAC, in.Leases[i].VNI = e, MAC{}, 0
		}
	}
}

func direct(in *Input) { in.DirectRouting = true }

func TestBuildProblems(t *testing.T) {
	const shared = "has the same PublicIP 192.168.32.246 as lease 172.247.0.0-24: two nodes with one address, or an old lease; " +
		"give each node its own --public-ip, or delete the old lease"
	tests := map[string]struct {
		leases   []Lease
		in       func(*Input)
		served   []string
		problems []Problem
	}{
		"nothing in etcd but this node's own": {
			leases: []Lease{lease("172.245.0.0/24 192.168.32.245")},
		},
		"two good ones": {
			leases: []Lease{lease("172.247.0.0/24 10.0.0.7", mac(macB)), lease("172.246.0.0/24 192.168.32.246")},
			served: []string{"172.246.0.0-24", "172.247.0.0-24"},
		},
		"subnets of other lengths, side by side": {
			leases: []Lease{lease("172.246.0.0/25 192.168.32.246"), lease("172.246.0.128/25 192.168.32.247", mac(macB))},
			served: []string{"172.246.0.0-25", "172.246.0.128-25"},
		},
		"own PublicIP in another lease": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.245"), lease("172.247.0.0/24 192.168.32.247")},
			served: []string{"172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-24", "carries this node's own PublicIP 192.168.32.245: " +
				"if another node uses the address give it its own --public-ip, else delete the old lease; not served"}},
		},
		"own PublicIP, given by NAT, in another lease": {
			leases: []Lease{lease("172.246.0.0/24 10.9.9.9")},
			in:     func(in *Input) { in.Public = append(in.Public, addr("10.9.9.9")) },
			problems: []Problem{{"172.246.0.0-24", "carries this node's own PublicIP 10.9.9.9: " +
				"if another node uses the address give it its own --public-ip, else delete the old lease; not served"}},
		},
		"outside the network": {
			leases: []Lease{lease("172.248.0.0/24 192.168.32.246"), lease("172.247.0.0/24 192.168.32.247")},
			served: []string{"172.247.0.0-24"},
			problems: []Problem{{"172.248.0.0-24",
				"subnet 172.248.0.0/24 is outside the network 172.244.0.0/14: delete the lease; not served"}},
		},
		"larger than the network": {
			leases: []Lease{lease("172.0.0.0/8 192.168.32.246"), lease("172.244.0.0/13 192.168.32.247", key("wide"))},
			problems: []Problem{
				{"172.0.0.0-8", "subnet 172.0.0.0/8 is outside the network 172.244.0.0/14: delete the lease; not served"},
				{"wide", "subnet 172.244.0.0/13 is outside the network 172.244.0.0/14: delete the lease; not served"},
			},
		},
		"misaligned": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246", subnet("172.246.0.5/24"))},
			problems: []Problem{{"172.246.0.0-24",
				"subnet 172.246.0.5/24 is misaligned: a /24 begins at 172.246.0.0; delete the lease; not served"}},
		},
		"leases without this family's subnet or address": {
			leases: []Lease{
				lease("2001:db8::/64 2001:db8:1::1", key("a")),
				lease("172.246.0.0/24 192.168.32.246", key("b"), node("")),
				{Key: "c", Encap: EncapVXLAN, MAC: macA},
				lease("172.246.0.0/24 192.168.32.246", key("d"), node(""), other("2001:db8:1::1")), // vxlan has the inner family outside too
			},
			problems: []Problem{
				{"a", "has no IPv4 subnet, which the network has: restart that node, or delete the lease; not served"},
				{"b", "has no PublicIP: restart that node, or delete the lease; not served"},
				{"c", "has no IPv4 subnet, which the network has: restart that node, or delete the lease; not served"},
				{"d", "has no PublicIP: restart that node, or delete the lease; not served"},
			},
		},
		"no VtepMAC": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246", mac(MAC{})), lease("172.247.0.0/24 192.168.32.247")},
			served: []string{"172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-24",
				`has no VtepMAC: restart that node, or write BackendData {"VtepMAC":…} into its lease; not served`}},
		},
		"another VNI": {
			leases:   []Lease{lease("172.246.0.0/24 192.168.32.246", vni(2))},
			problems: []Problem{{"172.246.0.0-24", "has VNI 2, the network's is 1: restart that node; not served"}},
		},
		"no VNI: the network's": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246", vni(0))},
			served: []string{"172.246.0.0-24"},
		},
		"another backend": {
			leases:   []Lease{lease("172.246.0.0/24 192.168.32.246", encap(EncapIPIP))},
			problems: []Problem{{"172.246.0.0-24", `has backend "ipip", the network's is "vxlan": restart that node; not served`}},
		},
		"no way": {
			leases: []Lease{lease("172.246.0.0/24 198.51.100.1"), lease("172.247.0.0/24 192.168.32.247")},
			served: []string{"172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-24",
				"no way through the underlay to its PublicIP 198.51.100.1: network is unreachable; not served"}},
		},
		"host-gw across a router": {
			leases: []Lease{lease("172.246.0.0/24 10.0.0.6"), lease("172.247.0.0/24 192.168.32.247")},
			in:     backend(EncapNone),
			served: []string{"172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-24", "host-gw needs layer-2 adjacency, but 10.0.0.6 is behind the router 192.168.32.1: " +
				"use the backend vxlan or ipip; not served"}},
		},
		"overlap with this node: ours, though it is younger": {
			leases: []Lease{
				lease("172.245.0.0/24 192.168.32.245", created(9)),
				lease("172.245.0.0/25 192.168.32.246", created(1)),
				lease("172.245.0.0/24 192.168.32.247", created(1), mac(macB), key("172.245.0.0-24&2001:db8::-64")),
				lease("172.244.0.0/15 192.168.32.248", created(1), mac(MAC{2, 0, 0, 0, 0, 0x0c})),
			},
			problems: []Problem{
				{"172.244.0.0-15", "subnet 172.244.0.0/15 overlaps this node's own 172.245.0.0/24: delete the lease; not served"},
				{"172.245.0.0-24&2001:db8::-64", "subnet 172.245.0.0/24 overlaps this node's own 172.245.0.0/24: delete the lease; not served"},
				{"172.245.0.0-25", "subnet 172.245.0.0/25 overlaps this node's own 172.245.0.0/24: delete the lease; not served"},
			},
		},
		"overlap: the older is the wider": {
			leases: []Lease{
				lease("172.246.0.0/16 192.168.32.246", created(1)), lease("172.246.7.0/24 192.168.32.247", created(2), mac(macB)),
			},
			served: []string{"172.246.0.0-16"},
			problems: []Problem{{"172.246.7.0-24",
				"overlaps the older lease 172.246.0.0-16: delete one of them; not served"}},
		},
		"overlap: the older is the narrower": {
			leases: []Lease{
				lease("172.246.0.0/16 192.168.32.246", created(2)), lease("172.246.7.0/24 192.168.32.247", created(1), mac(macB)),
			},
			served: []string{"172.246.7.0-24"},
			problems: []Problem{{"172.246.0.0-16",
				"overlaps the older lease 172.246.7.0-24: delete one of them; not served"}},
		},
		"overlap of one subnet under two keys, equally old: the first key": {
			leases: []Lease{
				lease("172.246.0.0/24 192.168.32.247", mac(macB), key("172.246.0.0-24&2001:db8::-64")),
				lease("172.246.0.0/24 192.168.32.246"),
			},
			served: []string{"172.246.0.0-24"},
			problems: []Problem{{"172.246.0.0-24&2001:db8::-64",
				"overlaps the older lease 172.246.0.0-24: delete one of them; not served"}},
		},
		"overlap of three: what the oldest puts out takes nothing from the youngest": {
			leases: []Lease{
				lease("172.246.1.0/24 192.168.32.246", created(1)),
				lease("172.246.0.0/16 192.168.32.247", created(2), mac(macB)),
				lease("172.246.0.0/24 192.168.32.248", created(3), mac(MAC{2, 0, 0, 0, 0, 0x0c})),
				lease("172.246.2.0/24 192.168.32.249", created(3), mac(MAC{2, 0, 0, 0, 0, 0x0d})),
			},
			served: []string{"172.246.0.0-24", "172.246.1.0-24", "172.246.2.0-24"},
			problems: []Problem{{"172.246.0.0-16",
				"overlaps the older lease 172.246.1.0-24: delete one of them; not served"}},
		},
		"overlap of three, one in the other": {
			leases: []Lease{
				lease("172.246.0.0/16 192.168.32.246", created(2)),
				lease("172.246.0.0/20 192.168.32.247", created(1), mac(macB)),
				lease("172.246.0.0/24 192.168.32.248", created(3), mac(MAC{2, 0, 0, 0, 0, 0x0c})),
			},
			served: []string{"172.246.0.0-20"},
			problems: []Problem{
				{"172.246.0.0-16", "overlaps the older lease 172.246.0.0-20: delete one of them; not served"},
				{"172.246.0.0-24", "overlaps the older lease 172.246.0.0-20: delete one of them; not served"},
			},
		},
		"overlap with one that cannot be served: the younger one is": {
			leases: []Lease{
				lease("172.246.0.0/16 192.168.32.246", created(1), mac(MAC{})),
				lease("172.246.0.0/24 192.168.32.247", created(2), mac(macB)),
			},
			served: []string{"172.246.0.0-24"},
			problems: []Problem{{"172.246.0.0-16",
				`has no VtepMAC: restart that node, or write BackendData {"VtepMAC":…} into its lease; not served`}},
		},
		"one PublicIP, one MAC: both": {
			leases:   []Lease{lease("172.246.0.0/24 192.168.32.246", modified(1)), lease("172.247.0.0/24 192.168.32.246", modified(2))},
			served:   []string{"172.246.0.0-24", "172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-24", shared}},
		},
		"one PublicIP, two MACs: both": {
			leases: []Lease{
				lease("172.246.0.0/24 192.168.32.246", modified(1)), lease("172.247.0.0/24 192.168.32.246", modified(2), mac(macB)),
			},
			served:   []string{"172.246.0.0-24", "172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-24", shared}},
		},
		"one PublicIP, the one written last cannot be served": {
			leases: []Lease{
				lease("172.246.0.0/24 192.168.32.246", modified(1)), lease("172.247.0.0/24 192.168.32.246", modified(2), mac(MAC{})),
			},
			served: []string{"172.246.0.0-24"},
			problems: []Problem{{"172.247.0.0-24",
				`has no VtepMAC: restart that node, or write BackendData {"VtepMAC":…} into its lease; not served`}},
		},
		"one PublicIP, the one written last overlaps this node": {
			leases: []Lease{
				lease("172.246.0.0/24 192.168.32.246", modified(1)), lease("172.245.0.0/16 192.168.32.246", modified(2), mac(macB)),
			},
			served: []string{"172.246.0.0-24"},
			problems: []Problem{{"172.245.0.0-16",
				"subnet 172.245.0.0/16 overlaps this node's own 172.245.0.0/24: delete the lease; not served"}},
		},
		"a node's old lease takes its subnet from nobody": {
			leases: []Lease{
				lease("172.246.0.0/16 192.168.32.246", created(1), modified(1)),
				lease("172.247.0.0/24 192.168.32.246", created(5), modified(5), mac(macB)),
				lease("172.246.0.0/24 192.168.32.247", created(4), mac(MAC{2, 0, 0, 0, 0, 0x0c})),
			},
			served:   []string{"172.246.0.0-24", "172.247.0.0-24"},
			problems: []Problem{{"172.246.0.0-16", shared + "; not served"}},
		},
		"one VtepMAC on two nodes: both, and said": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246"), lease("172.247.0.0/24 192.168.32.247")},
			served: []string{"172.246.0.0-24", "172.247.0.0-24"},
			problems: []Problem{{"172.247.0.0-24", "has the same VtepMAC 02:00:00:00:00:0a as lease 172.246.0.0-24: " +
				"a cloned machine? give one of them a new machine-id"}},
		},
		"this node's VtepMAC on another": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246", mac(selfMAC))},
			served: []string{"172.246.0.0-24"},
			problems: []Problem{{"172.246.0.0-24", "has the same VtepMAC 02:00:00:00:00:01 as lease 172.245.0.0-24: " +
				"a cloned machine? give one of them a new machine-id"}},
		},
		"two things wrong that keep none from being served": {
			leases: []Lease{
				lease("172.246.0.0/24 192.168.32.246", mac(selfMAC), modified(1)),
				lease("172.247.0.0/24 192.168.32.246", mac(selfMAC), modified(2)),
			},
			served: []string{"172.246.0.0-24", "172.247.0.0-24"},
			problems: []Problem{
				{"172.246.0.0-24", shared},
				{"172.246.0.0-24", "has the same VtepMAC 02:00:00:00:00:01 as lease 172.245.0.0-24: " +
					"a cloned machine? give one of them a new machine-id"},
				{"172.247.0.0-24", "has the same VtepMAC 02:00:00:00:00:01 as lease 172.245.0.0-24: " +
					"a cloned machine? give one of them a new machine-id"},
			},
		},
		"one VtepMAC is of no matter where none is used": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246"), lease("172.247.0.0/24 192.168.32.247")},
			in:     direct,
			served: []string{"172.246.0.0-24", "172.247.0.0-24"},
		},
		"no VtepMAC is of no matter where none is used": {
			leases: []Lease{lease("172.246.0.0/24 192.168.32.246", mac(MAC{}))},
			in:     direct,
			served: []string{"172.246.0.0-24"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := input(test.leases...)
			if test.in != nil {
				test.in(&in)
			}
			state, problems := Build(in)
			if diff := cmp.Diff(test.served, keys(state.Peers), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("served leases (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.problems, problems, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// byValue compares addresses with ==.
var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func keys(peers []Peer) []string {
	all := make([]string, 0, len(peers))
	for _, p := range peers {
		all = append(all, p.Key)
	}
	return all
}
