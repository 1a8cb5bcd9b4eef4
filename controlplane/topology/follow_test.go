// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func checkFollower(t *testing.T, f *Follower, in Input) {
	t.Helper()
	wantState, wantProblems := Build(in)
	state, problems := f.Build(in)
	if slices.Equal(wantState.Peers, state.Peers) && slices.Equal(wantProblems, problems) && wantState.Self == state.Self {
		return
	}
	if diff := gocmp.Diff(wantState, state, byValue, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("state (-Build +Follower):\n%s", diff)
	}
	if diff := gocmp.Diff(wantProblems, problems, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("problems (-Build +Follower):\n%s", diff)
	}
}

func sortLeases(all []Lease) {
	slices.SortFunc(all, func(a, b Lease) int { return strings.Compare(a.Key, b.Key) })
}

// TestFollowerRandom: from one input to the next, and from there, a Follower gives what
// Build gives, in a vxlan network and in one of ipip, where some nodes have an address of the other family alone.
func TestFollowerRandom(t *testing.T) {
	eachRandom(t, 150, func(t *testing.T, r *rand.Rand, in Input) {
		ipip := r.IntN(3) == 0
		if ipip {
			in.Self.Encap, in.Self.Other = EncapIPIP, addr("fd00::1")
			in.Path = func(node netip.Addr) (Path, error) {
				if node.Is6() {
					return Path{Ifindex: 2, NextHop: node, MTU: 1500}, nil
				}
				return path(node)
			}
		}
		for i := range in.Leases {
			in.Leases[i] = followed(r, i, ipip)
		}
		var f Follower
		for range 8 {
			sortLeases(in.Leases)
			checkFollower(t, &f, in)
			in.Leases = slices.DeleteFunc(slices.Clone(in.Leases), func(Lease) bool { return r.IntN(24) == 0 })
			for range r.IntN(3) {
				l := followed(r, r.IntN(24), ipip)
				in.Leases = slices.DeleteFunc(in.Leases, func(o Lease) bool { return o.Key == l.Key })
				in.Leases = append(in.Leases, l)
			}
			in.DirectRouting = in.DirectRouting != (r.IntN(20) == 0)
		}
	})
}

// followed is a random lease, mostly with a subnet that no other overlaps; of ipip with no MAC,
// and the node's address in either family.
func followed(r *rand.Rand, n int, ipip bool) Lease {
	var b [leaseBytes]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	l := randomLease(b, n)
	if r.IntN(8) > 0 {
		l.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 246, 100 + byte(r.IntN(100))}), 24)
	}
	if ipip {
		l.Encap, l.MAC = EncapIPIP, MAC{}
		if r.IntN(2) == 0 {
			l.Node, l.Other = netip.Addr{}, netip.AddrFrom16([16]byte{0xfd, 15: b[1]%4 + 1})
		}
	}
	return l
}

// TestFollowerAsksAgain: a node without a way there is served once there is one,
// though no lease changed; what has changed of a way that was known, once it is in doubt.
func TestFollowerAsksAgain(t *testing.T) {
	in := input(lease("172.246.0.0/24 198.51.100.1"), lease("172.246.1.0/24 192.168.32.247", mac(macB)))
	path, asked := in.Path, 0
	in.Path = func(node netip.Addr) (Path, error) { asked++; return path(node) }
	var f Follower
	if s, problems := f.Build(in); len(s.Peers) != 1 || len(problems) != 1 || asked != 2 {
		t.Fatalf("%d peers, problems %v, %d ways asked for", len(s.Peers), problems, asked)
	}
	path = func(node netip.Addr) (Path, error) { return Path{Ifindex: 2, NextHop: node, MTU: 1400}, nil }
	s, problems := f.Build(in)
	if len(s.Peers) != 2 || len(problems) != 0 || asked != 3 || s.Peers[0].Path.MTU != 1400 || s.Peers[1].Path.MTU == 1400 {
		t.Fatalf("peers %+v, problems %v, %d ways asked for", s.Peers, problems, asked)
	}
	f.Doubt()
	checkFollower(t, &f, in)
}

// TestFollowerLooksAtFew: of a large cluster, of which many have no way there for a
// while, one lease more is one way more to be asked for, and nothing at all is one list.
func TestFollowerLooksAtFew(t *testing.T) {
	in := cluster(1000)
	path, asked, lost := in.Path, 0, false
	in.Path = func(node netip.Addr) (Path, error) {
		if asked++; lost {
			return Path{}, errors.New("no way")
		}
		return path(node)
	}
	more := lease("10.200.0.0/24 11.200.0.1", mac(MAC{2, 200}))
	sortLeases(in.Leases)
	var f Follower
	f.Build(in)
	asked = 0
	before, _ := f.Build(in)
	in.Leases = append(slices.Clone(in.Leases), more)
	sortLeases(in.Leases)
	after, _ := f.Build(in)
	if again, _ := f.Build(in); asked != 1 || len(after.Peers) != len(before.Peers)+1 || &again.Peers[0] != &after.Peers[0] {
		t.Errorf("%d ways asked for, %d peers from %d", asked, len(after.Peers), len(before.Peers))
	}
	lost = true
	f.Doubt()
	checkFollower(t, &f, in)
	lost = false
	checkFollower(t, &f, in)
}

// BenchmarkFollower is a pass over a whole cluster of which one lease has changed.
func BenchmarkFollower(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d leases", n), func(b *testing.B) {
			in := cluster(n)
			sortLeases(in.Leases)
			other := in
			other.Leases = slices.Clone(in.Leases)
			other.Leases[n/2].MAC = MAC{2, 200}
			var f Follower
			f.Build(in)
			for b.Loop() {
				f.Build(other)
				in, other = other, in
			}
		})
	}
}
