// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// to6 puts an IPv4 address into 2001:db8::/96, to4 takes it out again.
func to6(a netip.Addr) netip.Addr {
	if !a.Is4() {
		return a
	}
	b := addr("2001:db8::").As16()
	four := a.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

func to4(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

func prefixTo6(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(to6(p.Addr()), p.Bits()+96) }

func (s Self) to6() Self {
	s.Subnet, s.Node, s.VTEP.Addr = prefixTo6(s.Subnet), to6(s.Node), to6(s.VTEP.Addr)
	return s
}

// inputTo6 is the same network in IPv6.
func inputTo6(in Input) Input {
	v4 := in.Path
	in.Network, in.Self, in.Public = prefixTo6(in.Network), in.Self.to6(), []netip.Addr{to6(in.Public[0])}
	in.Leases = slices.Clone(in.Leases)
	for i := range in.Leases {
		l := &in.Leases[i]
		l.Subnet, l.Node = prefixTo6(l.Subnet), to6(l.Node)
	}
	in.Path = func(node netip.Addr) (Path, error) {
		p, err := v4(to4(node))
		p.NextHop = to6(p.NextHop)
		return p, err
	}
	return in
}

func stateTo6(s State) State {
	s.Network, s.Self, s.Peers = prefixTo6(s.Network), s.Self.to6(), slices.Clone(s.Peers)
	for i := range s.Peers {
		p := &s.Peers[i]
		p.Subnet, p.Node, p.Path.NextHop = prefixTo6(p.Subnet), to6(p.Node), to6(p.Path.NextHop)
		if p.Encap == EncapVXLAN {
			p.VTEP.Addr = to6(p.VTEP.Addr)
		}
	}
	return s
}

// TestBuildIsTheSameInIPv6 builds random networks in both families.
func TestBuildIsTheSameInIPv6(t *testing.T) {
	eachRandom(t, 200, func(t *testing.T, _ *rand.Rand, in Input) {
		four, fourProblems := Build(in)
		six, sixProblems := Build(inputTo6(in))
		if diff := cmp.Diff(stateTo6(four), six, byValue); diff != "" {
			t.Errorf("state (-IPv4's +IPv6's):\n%s", diff)
		}
		if diff := cmp.Diff(problemKeys(fourProblems), problemKeys(sixProblems)); diff != "" {
			t.Errorf("problems (-IPv4's +IPv6's):\n%s", diff)
		}
	})
}

func problemKeys(problems []Problem) []string {
	all := make([]string, 0, len(problems))
	for _, p := range problems {
		all = append(all, p.Key)
	}
	slices.Sort(all) // within a key the order is the texts'
	return all
}

// TestBuildProblemsInIPv6 holds what is said in the words of the family.
func TestBuildProblemsInIPv6(t *testing.T) {
	for name, test := range map[string]struct {
		lease Lease
		want  string
	}{
		"IPv4 alone": {lease("172.246.0.0/24 192.168.32.246", subnet4(netip.Prefix{})),
			"has no IPv6 subnet, which the network has: restart that node, or delete the lease; not served"},
		"no PublicIPv6": {lease("172.246.0.0/24 192.168.32.246", node("")),
			"has no PublicIPv6: restart that node, or delete the lease; not served"},
		"no VtepMAC": {lease("172.246.0.0/24 192.168.32.246", mac(MAC{})),
			`has no VtepMAC: restart that node, or write BackendV6Data {"VtepMAC":…} into its lease; not served`},
		"own PublicIPv6": {lease("172.246.0.0/24 192.168.32.245"),
			"carries this node's own PublicIPv6 2001:db8::c0a8:20f5: " +
				"if another node uses the address give it its own --public-ipv6, else delete the old lease; not served"},
		"link-local": {lease("172.246.0.0/24 192.168.32.246", node("fe80::1")),
			"its PublicIPv6 fe80::1 is of one link alone: give that node a global address; not served"},
		"no way": {lease("172.246.0.0/24 198.51.100.1"),
			"no way through the underlay to its PublicIPv6 2001:db8::c633:6401: network is unreachable; not served"},
	} {
		in := inputTo6(input(test.lease))
		if !test.lease.Subnet.IsValid() {
			in.Leases[0].Subnet = netip.Prefix{}
		}
		state, problems := Build(in)
		if len(state.Peers) > 0 || len(problems) != 1 || problems[0].Text != test.want {
			t.Errorf("%s: %d peers, problems %q, want %q", name, len(state.Peers), problems, test.want)
		}
	}
}

func subnet4(p netip.Prefix) func(*Lease) { return func(l *Lease) { l.Subnet = p } }

// TestBuildZeroChecksum: whether a node takes vxlan without UDP checksums is its lease's to say, and a change of its peer.
func TestBuildZeroChecksum(t *testing.T) {
	takes := func(l *Lease) { l.ZeroChecksum = true }
	a, b := lease("172.246.0.0/24 192.168.32.246", takes), lease("172.247.0.0/24 192.168.32.247", mac(macB))
	before, _ := Build(inputTo6(input(a, b)))
	if len(before.Peers) != 2 || !before.Peers[0].ZeroChecksum || before.Peers[1].ZeroChecksum {
		t.Fatalf("peers %+v", before.Peers)
	}
	takes(&b)
	after, _ := Build(inputTo6(input(a, b)))
	if was, is := Changes(before.Peers, after.Peers); len(was) != 1 || len(is) != 1 || !is[0].ZeroChecksum {
		t.Errorf("of %+v is changed: %+v to %+v", before.Peers, was, is)
	}
}

// TestBuildOuter holds which address packets go to in an ipip network, by what
// the two nodes have: the inner family's is taken where both have one.
func TestBuildOuter(t *testing.T) {
	const self4, self6, peer4, peer6 = "192.168.32.245", "2001:db8::c0a8:20f5", "192.168.32.246", "2001:db8::c0a8:20f6"
	for _, test := range []struct {
		inner                   string
		node, other, peer, also string // of the inner family, and of the other one
		outer                   string
		problem                 string // what it has to speak of
	}{
		{"IPv4", self4, self6, peer4, peer6, peer4, ""},
		{"IPv4", self4, "", peer4, "", peer4, ""},
		{"IPv4", self4, self6, "", peer6, peer6, ""}, // 4in6
		{"IPv4", "", self6, peer4, peer6, peer6, ""},
		{"IPv4", self4, "", "", peer6, "", "PublicIPv6"},
		{"IPv4", self4, "", "", "", "", "PublicIP"},
		{"IPv6", self6, self4, peer6, peer4, peer6, ""},
		{"IPv6", self6, self4, "", peer4, peer4, ""}, // 6in4
		{"IPv6", "", self4, peer6, peer4, peer4, ""},
		{"IPv6", "", self4, peer6, "", "", "PublicIPv6"},
		{"IPv6", self6, self4, "", self4, "", "this node's own"},
	} {
		in := input(lease("172.246.0.0/24 192.168.32.246"))
		backend(EncapIPIP)(&in)
		in.DirectRouting = true
		in.Path = func(node netip.Addr) (Path, error) { return Path{Ifindex: 2, NextHop: node, MTU: 1500}, nil }
		if test.inner == "IPv6" {
			in = inputTo6(in)
			in.Path = func(node netip.Addr) (Path, error) { return Path{Ifindex: 2, NextHop: node, MTU: 1500}, nil }
		}
		in.Self.Node, in.Self.Other, in.Public = anyAddr(test.node), anyAddr(test.other), nil
		in.Leases[0].Node, in.Leases[0].Other = anyAddr(test.peer), anyAddr(test.also)
		state, problems := Build(in)
		switch {
		case test.outer == "":
			if len(state.Peers) > 0 || len(problems) != 1 || !strings.Contains(problems[0].Text, test.problem) {
				t.Errorf("%+v: peers %v, problems %v", test, state.Peers, problems)
			}
		case len(problems) > 0 || len(state.Peers) != 1 || state.Peers[0].Node != addr(test.outer):
			t.Errorf("%+v: peers %v, problems %v", test, state.Peers, problems)
		default:
			p := state.Peers[0]
			if direct := p.Encap == EncapNone; direct != (test.outer == test.peer) {
				t.Errorf("%+v: encapsulation %s: a next hop of the other family routes nothing directly", test, p.Encap)
			}
			if state.Self.Source(p.Node).BitLen() != p.Node.BitLen() {
				t.Errorf("%+v: sent from %s to %s", test, state.Self.Source(p.Node), p.Node)
			}
		}
	}
}
