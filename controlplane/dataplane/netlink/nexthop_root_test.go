// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// manyPeers are n hosts with a /24 of 10.0.0.0/8 each.
func manyPeers(n int, encap topology.Encap, uplink int) []topology.Peer {
	var peers []topology.Peer
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		p := peer(2, encap, uplink)
		p.Key = fmt.Sprintf("10.%03d.%03d.0-24", hi, lo)
		p.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, hi, lo, 0}), 24)
		p.Node = netip.AddrFrom4([4]byte{192, 169, hi, lo})
		if encap == topology.EncapVXLAN {
			p.VTEP = topology.VTEP{MAC: topology.MAC{0xc6, 1, 0, 0, hi, lo}, Addr: p.Subnet.Addr()}
		}
		peers = append(peers, p)
	}
	return peers
}

// byNexthop counts our routes that are by a nexthop object, and the objects.
func byNexthop(t *testing.T) (routes, nexthops int) {
	t.Helper()
	for _, line := range ip(t, "ip", "route", "show", "proto", "98") {
		if strings.Contains(line, " nhid ") {
			routes++
		}
	}
	return routes, len(ip(t, "ip", "nexthop", "show", "proto", "98"))
}

func wantByNexthop(t *testing.T, routes, nexthops int) {
	t.Helper()
	if r, n := byNexthop(t); r != routes || n != nexthops {
		t.Errorf("%d routes by nexthops, of which there are %d; want %d by %d", r, n, routes, nexthops)
	}
}

// TestNexthops: the routes beyond the first thousand are by nexthop objects,
// which come and go with them, and are gateway and device as any to who looks.
func TestNexthops(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	state := topology.State{Self: s, Peers: manyPeers(plainRoutes+5, topology.EncapVXLAN, s.Uplink)}
	ip(t, "ip", "nexthop", "add", "id", fmt.Sprint(firstNexthop+1), "dev", "eth0", "protocol", "4") // somebody's
	var v View
	for range 2 { // by what it knows, and by what it lists
		if problems, err := v.Apply(state, dev); err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		wantByNexthop(t, 5, 5)
		v.Doubt()
	}
	last := state.Peers[plainRoutes+4]
	want := fmt.Sprintf("%s nhid %d via %s dev bpfnet0 proto 98 onlink ", last.Subnet, firstNexthop+5, last.VTEP.Addr)
	if diff := cmp.Diff([]string{strings.TrimSpace(want)}, ip(t, "ip", "route", "show", last.Subnet.String())); diff != "" {
		t.Errorf("route (-want +got):\n%s", diff)
	}
	narrow := state
	narrow.Peers = manyPeers(plainRoutes+5, topology.EncapVXLAN, s.Uplink)
	narrow.Peers[plainRoutes+4].Path.MTU = 1400
	apply(t, narrow)
	if got := ip(t, "ip", "route", "show", last.Subnet.String()); len(got) != 1 || !strings.HasSuffix(got[0], "mtu 1350") || !strings.Contains(got[0], "nhid") {
		t.Errorf("a narrow path's route is %q", got)
	}
	state.Peers = state.Peers[3:]
	apply(t, state)
	wantByNexthop(t, 5, 5) // those that stay keep what they have
	state.Peers = state.Peers[:len(state.Peers)-3]
	apply(t, state)
	wantByNexthop(t, 2, 2)
	if got := ip(t, "ip", "nexthop", "show", "proto", "4"); len(got) != 1 {
		t.Errorf("somebody's nexthop became %q", got)
	}
	if err := Cleanup(); err != nil {
		t.Fatal(err)
	}
	wantByNexthop(t, 0, 0)
}

// TestNexthopShared: the nexthop of a node with several leases stays with the last of its routes.
func TestNexthopShared(t *testing.T) {
	s := host1(t, topology.EncapIPIP)
	dev := ensure(t, s)
	peers := manyPeers(plainRoutes+4, topology.EncapIPIP, s.Uplink)
	peers[plainRoutes+1].Node, peers[plainRoutes+2].Node = peers[plainRoutes].Node, peers[plainRoutes].Node
	peers[plainRoutes+3].Node = peers[0].Node // whose route is without
	var v View
	for n, want := range map[int][2]int{4: {4, 2}, 3: {3, 1}, 2: {2, 1}, 1: {1, 1}, 0: {0, 0}} {
		v.Doubt()
		state := topology.State{Self: s, Peers: peers[:plainRoutes+n]}
		for range 2 {
			if problems, err := v.Apply(state, dev); err != nil || len(problems) > 0 {
				t.Fatal(err, problems)
			}
		}
		wantByNexthop(t, want[0], want[1])
	}
}

// TestNexthopsFollow: as TestViewFollows, with the routes that come and go by nexthops.
func TestNexthopsFollow(t *testing.T) {
	s := host1(t, topology.EncapIPIP)
	dev := ensure(t, s)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := manyPeers(plainRoutes+20, topology.EncapIPIP, s.Uplink)
	peers := map[int]topology.Peer{}
	for i, p := range all {
		peers[i] = p
	}
	var v View
	for step := range 30 {
		for range 3 {
			n := plainRoutes - 10 + random.IntN(30)
			delete(peers, n)
			if random.IntN(4) > 0 {
				p := all[n]
				p.Node = all[plainRoutes+random.IntN(10)].Node
				p.Path.MTU = []int{1500, 1400}[random.IntN(2)]
				peers[n] = p
			}
		}
		state := stateOf(s, peers)
		if problems, err := v.Apply(state, dev); err != nil || len(problems) > 0 {
			t.Fatalf("step %d: %v, problems %v", step, err, problems)
		}
		if diff := cmp.Diff(holds(t, s, dev), v.have, compareTables); diff != "" {
			t.Fatalf("step %d: what the View knows (-kernel's +known):\n%s", step, diff)
		}
		if seen := events(t, func() { apply(t, state) }); len(seen) != 0 {
			t.Fatalf("step %d: was not complete:\n%s", step, strings.Join(seen, "\n"))
		}
	}
}

// TestNexthopsUnseen: where the kernel tells a route's nexthop alone, the route is known all the same.
func TestNexthopsUnseen(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	state := topology.State{Self: s, Peers: manyPeers(plainRoutes+2, topology.EncapVXLAN, s.Uplink)}
	apply(t, state)
	ip(t, "sysctl", "-qw", "net.ipv4.nexthop_compat_mode=0")
	if seen := events(t, func() { apply(t, state) }); len(seen) != 0 {
		t.Errorf("the second Apply wrote:\n%s", strings.Join(seen, "\n"))
	}
}

// TestHandOverNexthops: flanneld, which does not know them, finds routes without.
func TestHandOverNexthops(t *testing.T) {
	s := host1(t, topology.EncapNone)
	ensure(t, s)
	apply(t, topology.State{Self: s, Peers: manyPeers(plainRoutes+2, topology.EncapNone, s.Uplink)})
	wantByNexthop(t, 2, 2)
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	wantByNexthop(t, 0, 0)
	if got := ip(t, "ip", "route", "show", "proto", "98"); len(got) != plainRoutes+2 {
		t.Errorf("%d routes, want %d", len(got), plainRoutes+2)
	}
}
