// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

var someAtATime = Step{Peers: 3, Cover: true}

// advance takes a step that must not fail.
func advance(t *testing.T, v *View, s topology.State, dev Device) (left int) {
	t.Helper()
	left, problems, err := v.Advance(s, dev, someAtATime)
	if err != nil || len(problems) > 0 {
		t.Fatalf("Advance: %v, problems %v", err, problems)
	}
	return left
}

// written tells, of a step that was taken, which peers' routes there are, whether
// each of those can be resolved, and whether all other peers have a cover.
func written(t *testing.T, s topology.State, dev Device) (own int) {
	t.Helper()
	have := holds(t, s.Self, dev)
	peers := map[netip.Prefix]topology.Peer{}
	for _, p := range s.Peers {
		peers[p.Subnet] = p
	}
	var covers []netip.Prefix
	for r := range have.routes {
		p, wanted := peers[r.dst]
		switch {
		case r.metric == coverMetric:
			covers = append(covers, r.dst)
			if s.Self.Encap == topology.EncapVXLAN && have.neighbours[r.gateway] != dev.MAC {
				t.Errorf("the cover's gateway %s has the MAC %s", r.gateway, have.neighbours[r.gateway])
			}
		case !wanted:
			t.Errorf("route %s is nobody's", r)
		case p.Encap != topology.EncapVXLAN:
			own++
		case have.neighbours[r.gateway] != p.VTEP.MAC || !have.fdb[p.VTEP.MAC].IsValid():
			t.Errorf("route %s cannot be resolved: neighbour %s, FDB entry %s", r, have.neighbours[r.gateway], have.fdb[p.VTEP.MAC])
		default:
			own++
		}
		delete(peers, r.dst)
	}
	for subnet := range peers {
		if !slices.ContainsFunc(covers, func(c netip.Prefix) bool { return c.Overlaps(subnet) && c.Bits() <= subnet.Bits() }) {
			t.Errorf("%s has neither a route of its own nor a cover of %v", subnet, covers)
		}
	}
	return own
}

// TestAdvanceInSteps: each step writes so many peers, the rest is covered
// meanwhile; who takes over in the middle goes on there, and nothing else is left in the end.
func TestAdvanceInSteps(t *testing.T) {
	for name, of := range map[string]func(*testing.T) (topology.State, Device){
		"vxlan": func(t *testing.T) (topology.State, Device) {
			s := host1(t, topology.EncapVXLAN)
			return topology.State{Self: s, Peers: manyPeers(10, topology.EncapVXLAN, s.Uplink)}, ensure(t, s)
		},
		"ipip": func(t *testing.T) (topology.State, Device) {
			s := host1(t, topology.EncapIPIP)
			return topology.State{Self: s, Peers: manyPeers(10, topology.EncapIPIP, s.Uplink)}, ensure(t, s)
		},
		"vxlan over IPv6": func(t *testing.T) (topology.State, Device) {
			_, s := host1v6(t, topology.EncapVXLAN)
			peers := map[int]topology.Peer{}
			for n := range 10 {
				peers[n] = peer6(2+n, topology.EncapVXLAN, s.Uplink)
			}
			return stateOf(s, peers), ensure(t, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			state, dev := of(t)
			var v View
			for _, left := range []int{7, 4} {
				if got := advance(t, &v, state, dev); got != left {
					t.Fatalf("%d are left, want %d", got, left)
				}
				if own := written(t, state, dev); own != 10-left {
					t.Errorf("%d routes, want %d", own, 10-left)
				}
			}
			v = View{} // killed
			if got := advance(t, &v, state, dev); got != 1 {
				t.Errorf("%d are left by who took over, want 1", got)
			}
			written(t, state, dev)
			if got := advance(t, &v, state, dev); got != 0 || written(t, state, dev) != 10 {
				t.Errorf("%d are left in the end", got)
			}
			for r := range v.have.routes {
				if r.metric == coverMetric {
					t.Errorf("the cover %s is left", r)
				}
			}
			v.checkKnown(t, state.Self, dev)
			checkComplete(t, state)
		})
	}
}

// TestAdvanceChanges: who changes, or goes, while the others are being written does so at once.
func TestAdvanceChanges(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	state := topology.State{Self: s, Peers: manyPeers(12, topology.EncapVXLAN, s.Uplink)}
	first, last := state.Peers[0], state.Peers[11]
	var v View
	advance(t, &v, state, dev)
	moved := slices.Clone(state.Peers[1:11]) // of two that go one is written already
	moved[9].Node = netip.MustParseAddr("192.169.9.9")
	state.Peers = moved
	if left := advance(t, &v, state, dev); left != 5 {
		t.Errorf("%d are left, want 5: of 12 three were written, two went, three are written now", left)
	}
	have := holds(t, s, dev)
	if have.fdb[moved[9].VTEP.MAC] != moved[9].Node {
		t.Errorf("who changed is at %s, want %s: written first", have.fdb[moved[9].VTEP.MAC], moved[9].Node)
	}
	for _, p := range []topology.Peer{first, last} {
		_, neighbour := have.neighbours[p.VTEP.Addr]
		_, fdb := have.fdb[p.VTEP.MAC]
		if _, route := have.routes[route{p.Subnet, p.VTEP.Addr, dev.Ifindex, 0, RouteProtocol}]; route || neighbour || fdb {
			t.Errorf("who went has a route %t, neighbour %t, FDB entry %t", route, neighbour, fdb)
		}
	}
	for advance(t, &v, state, dev) > 0 {
		written(t, state, dev)
	}
	if own := written(t, state, dev); own != 10 {
		t.Errorf("%d routes, want 10", own)
	}
}

// TestAdvanceKeepsWhatIsNamed: who goes takes along no FDB entry by which the kernel still
// reaches a peer that a predecessor wrote and that is not looked at yet.
func TestAdvanceKeepsWhatIsNamed(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	state := topology.State{Self: s, Peers: manyPeers(10, topology.EncapVXLAN, s.Uplink)}
	shared := state.Peers[9].VTEP.MAC
	state.Peers[8].VTEP.MAC = shared
	apply(t, state)

	state.Peers = slices.Clone(state.Peers)
	for i := range 9 { // to the successor all have other MACs, but for one of the two
		state.Peers[i].VTEP.MAC[4]++
	}
	var v View
	advance(t, &v, state, dev)
	state.Peers = state.Peers[:9]
	advance(t, &v, state, dev)
	resolved(t, v.have, dev)
	for advance(t, &v, state, dev) > 0 {
		resolved(t, v.have, dev)
	}
	if have := holds(t, s, dev); have.fdb[shared].IsValid() {
		t.Errorf("the FDB entry of %x is left", shared)
	}
}

// TestAdvanceRandomly: after any step, with any changes before it and whoever
// takes over, each route can be resolved, and in the end the kernel holds what
// one call would have it hold.
func TestAdvanceRandomly(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var v View
	for range 20 {
		peers := map[int]topology.Peer{}
		for n := range 24 {
			if random.IntN(3) > 0 {
				peers[2+n] = randomPeer(random, peer, 2+n, s.Uplink)
			}
		}
		for left := 1; left > 0; {
			for range random.IntN(3) {
				n := 2 + random.IntN(24)
				delete(peers, n)
				if random.IntN(3) > 0 {
					peers[n] = randomPeer(random, peer, n, s.Uplink)
				}
			}
			if random.IntN(6) == 0 {
				v = View{}
			}
			left = advance(t, &v, stateOf(s, peers), dev)
			resolved(t, v.have, dev)
			v.checkKnown(t, s, dev)
		}
		checkComplete(t, stateOf(s, peers))
	}
}

func resolved(t *testing.T, have *tables, dev Device) {
	t.Helper()
	for r := range have.routes {
		mac := have.neighbours[r.gateway]
		if _, there := have.fdb[mac]; r.ifindex == dev.Ifindex && r.metric != coverMetric && !there {
			t.Errorf("route %s is by MAC %s, which no FDB entry has", r, mac)
		}
	}
}
