// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equatePeers = cmpopts.EquateComparable(Peer{})

// changing is a peer of its own node and MAC.
func changing(key string, node, mac byte) Peer {
	return Peer{
		Key: key, Encap: EncapVXLAN, Node: addr(fmt.Sprintf("192.168.32.%d", node)),
		VTEP: VTEP{MAC: MAC{2, 0, 0, 0, 0, mac}},
	}
}

func TestChanges(t *testing.T) {
	a, b, c, d := changing("a", 1, 1), changing("b", 2, 2), changing("c", 3, 3), changing("d", 4, 4)
	otherB := changing("b", 9, 9)
	plainB := b
	plainB.Encap = EncapNone
	for name, tc := range map[string]struct{ before, after, was, is []Peer }{
		"nothing":        {[]Peer{a, b}, []Peer{a, b}, nil, nil},
		"first":          {nil, []Peer{a, b}, nil, []Peer{a, b}},
		"last":           {[]Peer{a, b}, nil, []Peer{a, b}, nil},
		"comes":          {[]Peer{a, c}, []Peer{a, b, c}, nil, []Peer{b}},
		"goes":           {[]Peer{a, b, c}, []Peer{a, c}, []Peer{b}, nil},
		"differs":        {[]Peer{a, b, c}, []Peer{a, otherB, c}, []Peer{b}, []Peer{otherB}},
		"at both ends":   {[]Peer{a, b, c}, []Peer{b, c, d}, []Peer{a}, []Peer{d}},
		"other encap":    {[]Peer{a, b}, []Peer{a, plainB}, []Peer{b}, []Peer{plainB}},
		"node shared":    {[]Peer{a, changing("b", 4, 2)}, []Peer{a, changing("b", 4, 2), d}, []Peer{changing("b", 4, 2)}, []Peer{changing("b", 4, 2), d}},
		"MAC was shared": {[]Peer{changing("b", 2, 3), c}, []Peer{changing("b", 2, 3)}, []Peer{changing("b", 2, 3), c}, []Peer{changing("b", 2, 3)}},
		"no MAC to share": {
			[]Peer{{Key: "a", Encap: EncapIPIP, Node: a.Node}},
			[]Peer{{Key: "a", Encap: EncapIPIP, Node: a.Node}, {Key: "b", Encap: EncapIPIP, Node: b.Node}},
			nil,
			[]Peer{{Key: "b", Encap: EncapIPIP, Node: b.Node}},
		},
		"one shares with one that shares": {
			[]Peer{changing("a", 1, 2), changing("b", 3, 2), c, d},
			[]Peer{changing("a", 1, 2), changing("b", 3, 2), d},
			[]Peer{changing("a", 1, 2), changing("b", 3, 2), c},
			[]Peer{changing("a", 1, 2), changing("b", 3, 2)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			was, is := Changes(tc.before, tc.after)
			if diff := gocmp.Diff(tc.was, was, equatePeers); diff != "" {
				t.Errorf("was (-want +got):\n%s", diff)
			}
			if diff := gocmp.Diff(tc.is, is, equatePeers); diff != "" {
				t.Errorf("is (-want +got):\n%s", diff)
			}
		})
	}
}

// TestChangesRandom: what Changes leaves out is the same in both states and
// shares nothing with what it gives.
func TestChangesRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var states [2][]Peer
		for n := range random.IntN(12) {
			p := changing(fmt.Sprint(n), byte(random.IntN(16)), byte(random.IntN(16)))
			for i := range states {
				switch random.IntN(8) {
				case 0: // it has no such peer
				case 1:
					states[i] = append(states[i], changing(p.Key, byte(random.IntN(16)), byte(random.IntN(16))))
				default:
					states[i] = append(states[i], p)
				}
			}
		}
		for i := range states {
			slices.SortFunc(states[i], func(a, b Peer) int { return strings.Compare(a.Key, b.Key) })
		}
		was, is := Changes(states[0], states[1])
		left := without(states[0], was)
		if diff := gocmp.Diff(left, without(states[1], is), equatePeers, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("left out (-before +after):\n%s", diff)
		}
		for _, l := range left {
			for _, p := range append(was, is...) {
				if l.Node == p.Node || l.VTEP.MAC == p.VTEP.MAC {
					t.Fatalf("%v is left out, but shares with %v", l, p)
				}
			}
		}
	}
}

func without(peers, some []Peer) []Peer {
	return slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return slices.Contains(some, p) })
}

func BenchmarkChanges(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before []Peer
			for i := range n {
				p := changing(fmt.Sprintf("%06d", i), 0, 0)
				hi, mid, lo := byte(i>>16), byte(i>>8), byte(i)
				p.Node, p.VTEP.MAC = netip.AddrFrom4([4]byte{10, hi, mid, lo}), MAC{2, 0, 0, hi, mid, lo}
				before = append(before, p)
			}
			after := slices.Delete(slices.Clone(before), n/2, n/2+1)
			for b.Loop() {
				if was, is := Changes(before, after); len(was) != 1 || len(is) != 0 {
					b.Fatalf("%d was, %d is", len(was), len(is))
				}
			}
		})
	}
}
