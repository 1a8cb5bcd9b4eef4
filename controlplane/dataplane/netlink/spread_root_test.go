// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

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

// metricsOf are those of our routes, by destination; 0 where there is none.
func metricsOf(t *testing.T, s topology.Self, dev Device) map[netip.Prefix]int {
	t.Helper()
	all := map[netip.Prefix]int{}
	for r := range holds(t, s, dev).routes {
		all[r.dst] = r.metric
	}
	return all
}

// TestSpread: the routes of a large cluster have many metrics, keep them, and lose them when flanneld is to take over.
func TestSpread(t *testing.T) {
	s := host1(t, topology.EncapNone)
	dev := ensure(t, s)
	peers := manyPeers(plainRoutes+1, topology.EncapNone, s.Uplink)
	apply(t, topology.State{Self: s, Peers: peers[:10]})
	ip(t, "ip", "route", "add", peers[11].Subnet.String(), "via", "192.168.32.7", "dev", "eth0", "proto", "static")
	state := topology.State{Self: s, Peers: peers}
	apply(t, state)
	has := metricsOf(t, s, dev)
	for i, p := range peers {
		want := 1 + i%metrics
		if i < 10 || i == 11 { // was there, has to go before somebody's
			want = 0
		}
		if got, there := has[p.Subnet]; !there || got != want {
			t.Errorf("the route to %s has metric %d (%t), want %d", p.Subnet, got, there, want)
		}
	}
	if got := ip(t, "ip", "route", "show", peers[11].Subnet.String()); len(got) != 2 || !strings.Contains(got[0], "proto 98") {
		t.Errorf("ours is not before somebody's: %q", got)
	}
	peers[20].Path.MTU = 1400
	apply(t, state)
	if got := ip(t, "ip", "route", "show", peers[20].Subnet.String()); len(got) != 1 || !strings.HasSuffix(got[0], "metric 21 onlink mtu 1400") {
		t.Errorf("a narrow path's route is %q", got)
	}
	apply(t, topology.State{Self: s, Peers: peers[15:30]})
	if got := metricsOf(t, s, dev); len(got) != 15 || got[peers[20].Subnet] != 21 {
		t.Errorf("in a cluster that has become small the metrics are %v", got)
	}
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	for dst, metric := range metricsOf(t, s, dev) {
		if metric != 0 {
			t.Errorf("flanneld finds metric %d at the route to %s", metric, dst)
		}
	}
	if err := Cleanup(); err != nil {
		t.Fatal(err)
	}
	if left := ip(t, "ip", "route", "show", "proto", "98"); len(left) != 0 {
		t.Errorf("Cleanup left %q", left)
	}
}

// TestSpreadFollows: as TestViewFollows, of a cluster about to become large.
func TestSpreadFollows(t *testing.T) {
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
		v.checkKnown(t, s, dev)
		checkComplete(t, state)
	}
}
