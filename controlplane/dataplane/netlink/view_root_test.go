// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestViewFollows: a View that follows change after change knows what the kernel
// holds, and that is what one that lists everything would have it hold.
func TestViewFollows(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { viewFollows(t, host1(t, topology.EncapVXLAN), peer) })
	t.Run("IPv6", func(t *testing.T) {
		_, s := host1v6(t, topology.EncapVXLAN)
		viewFollows(t, s, peer6)
	})
}

type makePeer func(n int, encap topology.Encap, uplink int) topology.Peer

func viewFollows(t *testing.T, s topology.Self, peer makePeer) {
	dev := ensure(t, s)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var v View
	peers := map[int]topology.Peer{}
	for step := range 100 {
		for range 1 + random.IntN(3) {
			n := 2 + random.IntN(8)
			delete(peers, n)
			if random.IntN(3) > 0 {
				peers[n] = randomPeer(random, peer, n, s.Uplink)
			}
		}
		state := stateOf(s, peers)
		if problems, err := v.Apply(state, dev); err != nil || len(problems) > 0 {
			t.Fatalf("step %d: %v, problems %v", step, err, problems)
		}
		v.checkKnown(t, s, dev)
		checkComplete(t, state)
	}
}

// checkKnown ends the test where the View does not know what the kernel holds.
func (v *View) checkKnown(t *testing.T, s topology.Self, dev Device) {
	t.Helper()
	if diff := cmp.Diff(holds(t, s, dev), v.have, compareTables); diff != "" {
		t.Fatalf("what the View knows (-kernel's +known):\n%s", diff)
	}
}

// checkComplete ends the test where the kernel does not hold what who lists everything would have it hold.
func checkComplete(t *testing.T, state topology.State) {
	t.Helper()
	if seen := events(t, func() { apply(t, state) }); len(seen) != 0 {
		t.Fatalf("it was not complete:\n%s", strings.Join(seen, "\n"))
	}
}

var compareTables = cmp.Options{
	cmp.AllowUnexported(tables{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, route{}, attrs{}),
}

// randomPeer is host n of the lab by way of few nodes, with few MACs and MTUs.
func randomPeer(r *rand.Rand, peer makePeer, n, uplink int) topology.Peer {
	p := peer(n, []topology.Encap{topology.EncapVXLAN, topology.EncapVXLAN, topology.EncapNone}[r.IntN(3)], uplink)
	p.Node = peer(2+r.IntN(8), p.Encap, uplink).Node
	p.Path.NextHop, p.Path.MTU = p.Node, []int{1500, 1400}[r.IntN(2)]
	if p.Encap == topology.EncapVXLAN {
		p.VTEP.MAC[5] = byte(2 + r.IntN(8))
	}
	return p
}

func stateOf(self topology.Self, peers map[int]topology.Peer) topology.State {
	s := topology.State{Self: self}
	for _, p := range peers {
		s.Peers = append(s.Peers, p)
	}
	slices.SortFunc(s.Peers, func(a, b topology.Peer) int { return strings.Compare(a.Key, b.Key) })
	return s
}

func holds(t *testing.T, s topology.Self, dev Device) *tables {
	t.Helper()
	k, err := openKernel()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	have, err := k.list(familyOf(s.Subnet.Addr()), dev.Ifindex)
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// TestViewDoubts: what others have removed is missed only by a View that does not doubt.
func TestViewDoubts(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	state := topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink)}}
	var v View
	for range 2 {
		if problems, err := v.Apply(state, dev); err != nil || len(problems) > 0 {
			t.Fatalf("Apply: %v, problems %v", err, problems)
		}
		if got := shown(t)["routes"]; len(got) != 1 {
			t.Fatalf("routes %q, want one", got)
		}
		ip(t, "ip", "route", "del", "172.246.0.0/24")
		v.Doubt()
	}
}

// TestViewTriesAgain: a peer that could not be served is served once it can be, though it is the same.
func TestViewTriesAgain(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	odd := peer(3, topology.EncapNone, s.Uplink)
	odd.Node = netip.MustParseAddr("192.168.32.77")
	ip(t, "ip", "addr", "add", "192.168.32.77/24", "dev", "eth0")
	state := topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink), odd}}
	var v View
	for _, want := range []int{1, 0} {
		problems, err := v.Apply(state, dev)
		if err != nil || len(problems) != want {
			t.Fatalf("Apply: %v, problems %v, want %d", err, problems, want)
		}
		if got := shown(t)["routes"]; len(got) != 2-want {
			t.Fatalf("routes %q, want %d", got, 2-want)
		}
		if want == 1 {
			ip(t, "ip", "addr", "del", "192.168.32.77/24", "dev", "eth0")
		}
	}
}
