// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// peer is host n of the lab, n from 2: 192.168.32.246 with 172.246.0.0/24.
func peer(n int, encap topology.Encap, uplink int) topology.Peer {
	p := topology.Peer{
		Key:    fmt.Sprintf("172.%d.0.0-24", 244+n),
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(244 + n), 0, 0}), 24),
		Node:   netip.AddrFrom4([4]byte{192, 168, 32, byte(244 + n)}),
		Encap:  encap,
	}
	if encap == topology.EncapVXLAN {
		p.VTEP = topology.VTEP{MAC: topology.MAC{0xc6, 0, 0, 0, 0, byte(n)}, Addr: p.Subnet.Addr()}
	}
	p.Path = topology.Path{Ifindex: uplink, NextHop: p.Node, MTU: 1500}
	return p
}

// apply applies without a problem.
func apply(t *testing.T, s topology.State) {
	t.Helper()
	problems, err := new(View).Apply(s, standing(t, s.Self))
	if err != nil || len(problems) != 0 {
		t.Fatalf("Apply: %v, problems %v", err, problems)
	}
}

// standing is the overlay device of the programs as it is.
func standing(t *testing.T, s topology.Self) Device {
	t.Helper()
	name := overlayName(s, Programs)
	if name == "" {
		return Device{}
	}
	return deviceOf(nstest.Link(t, name))
}

// shown is what iproute2 prints of our tables, the user's own view.
func shown(t *testing.T) map[string][]string {
	t.Helper()
	got := map[string][]string{"routes": ip(t, "ip", "route", "show", "proto", "98")}
	if _, err := netlink.LinkByName(OverlayName); err == nil {
		got["neighbours"] = ip(t, "ip", "-4", "neigh", "show", "dev", OverlayName)
		slices.Sort(got["neighbours"]) // a hash table with a random seed, as the FDB
		got["fdb"] = slices.DeleteFunc(ip(t, "bridge", "fdb", "show", "dev", OverlayName),
			func(line string) bool { return !strings.Contains(line, " dst ") }) // a veth's multicast filters
		slices.Sort(got["fdb"])
	}
	return got
}

func TestApplyVXLAN(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	direct := peer(3, topology.EncapNone, s.Uplink) // DirectRouting
	state := topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink), direct}}
	apply(t, state)
	want := map[string][]string{
		"routes": {
			"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink",
			"172.247.0.0/24 via 192.168.32.247 dev eth0 onlink",
		},
		"neighbours": {"172.246.0.0 lladdr c6:00:00:00:00:02 PERMANENT"},
		"fdb":        {"c6:00:00:00:00:02 dst 192.168.32.246 self permanent"},
	}
	if diff := cmp.Diff(want, shown(t)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

func TestApplyOtherModes(t *testing.T) {
	for encap, want := range map[topology.Encap]map[string][]string{
		topology.EncapIPIP: {"routes": {"172.246.0.0/24 via 192.168.32.246 dev bpfnet0 onlink"}, "neighbours": nil, "fdb": {}},
		topology.EncapUDP:  {"routes": {"172.246.0.0/24 via 192.168.32.246 dev bpfnet0 onlink"}, "neighbours": nil, "fdb": {}},
		topology.EncapNone: {"routes": {"172.246.0.0/24 via 192.168.32.246 dev eth0 onlink"}},
	} {
		t.Run(string(encap), func(t *testing.T) {
			s := host1(t, encap)
			ensure(t, s)
			state := topology.State{Self: s, Peers: []topology.Peer{peer(2, encap, s.Uplink)}}
			apply(t, state)
			if diff := cmp.Diff(want, shown(t)); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
			if seen := events(t, func() { apply(t, state) }); len(seen) != 0 {
				t.Errorf("the second Apply wrote:\n%s", strings.Join(seen, "\n"))
			}
		})
	}
}

func TestApplyTwiceWritesNothing(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	state := topology.State{Self: s, Peers: []topology.Peer{
		peer(2, topology.EncapVXLAN, s.Uplink), peer(3, topology.EncapNone, s.Uplink), peer(4, topology.EncapVXLAN, s.Uplink),
	}}
	if seen := events(t, func() { apply(t, state) }); len(seen) != 7 {
		t.Errorf("the first Apply made %d announcements, want 3 + 1 + 3: the test sees too little\n%s", len(seen), strings.Join(seen, "\n"))
	}
	if seen := events(t, func() { apply(t, state) }); len(seen) != 0 {
		t.Errorf("the second Apply wrote:\n%s", strings.Join(seen, "\n"))
	}
}

func TestApplyPrunesOursOnly(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	left := peer(3, topology.EncapVXLAN, s.Uplink)
	apply(t, topology.State{Self: s, Peers: []topology.Peer{left, peer(4, topology.EncapNone, s.Uplink)}})
	for _, cmd := range []string{
		"ip route add 10.8.0.0/24 via 192.168.32.1",
		"ip route add 172.250.0.0/24 via 192.168.32.9 proto static",
		"ip neigh add 192.168.32.9 lladdr c6:00:00:00:00:09 dev eth0",
		"ip neigh replace 172.249.0.0 lladdr c6:00:00:00:00:08 nud stale dev bpfnet0",
		"bridge fdb append 00:00:00:00:00:00 dev bpfnet0 dst 192.168.32.99",
	} {
		ip(t, strings.Fields(cmd)...)
	}
	apply(t, topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink)}})
	want := map[string][]string{
		"routes":     {"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink"},
		"neighbours": {"172.246.0.0 lladdr c6:00:00:00:00:02 PERMANENT", "172.249.0.0 lladdr c6:00:00:00:00:08 STALE"},
		"fdb": {
			"00:00:00:00:00:00 dst 192.168.32.99 self permanent",
			"c6:00:00:00:00:02 dst 192.168.32.246 self permanent",
		},
	}
	if diff := cmp.Diff(want, shown(t)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	foreign := append(ip(t, "ip", "route", "show", "proto", "static"), ip(t, "ip", "route", "show", "10.8.0.0/24")...)
	foreign = append(foreign, ip(t, "ip", "neigh", "show", "dev", "eth0")...)
	if diff := cmp.Diff([]string{"172.250.0.0/24 via 192.168.32.9 dev eth0", "10.8.0.0/24 via 192.168.32.1 dev eth0",
		"192.168.32.9 lladdr c6:00:00:00:00:09 PERMANENT"}, foreign); diff != "" {
		t.Errorf("what is not ours (-want +got):\n%s", diff)
	}
}

// A peer that moves is followed without a gap: at no time is there no route, and
// FDB and neighbour are never removed.
func TestApplyFollowsAPeer(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*topology.Peer)
		want   map[string][]string
		seen   []string // announcements, in order
	}{
		"MAC": {func(p *topology.Peer) { p.VTEP.MAC[5] = 0x22 }, map[string][]string{
			"routes":     {"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink"},
			"neighbours": {"172.246.0.0 lladdr c6:00:00:00:00:22 PERMANENT"},
			"fdb":        {"c6:00:00:00:00:22 dst 192.168.32.246 self permanent"},
		}, []string{"new fdb", "new neigh", "del fdb"}},
		"node": {func(p *topology.Peer) { p.Node = netip.MustParseAddr("192.168.32.22") }, map[string][]string{
			"routes":     {"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink"},
			"neighbours": {"172.246.0.0 lladdr c6:00:00:00:00:02 PERMANENT"},
			"fdb":        {"c6:00:00:00:00:02 dst 192.168.32.22 self permanent"},
		}, []string{"new fdb"}},
		"path MTU": {func(p *topology.Peer) { p.Path.MTU = 1400 }, map[string][]string{
			"routes":     {"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink mtu 1350"},
			"neighbours": {"172.246.0.0 lladdr c6:00:00:00:00:02 PERMANENT"},
			"fdb":        {"c6:00:00:00:00:02 dst 192.168.32.246 self permanent"},
		}, []string{"new route"}},
		"to direct routing": {func(p *topology.Peer) { p.Encap = topology.EncapNone }, map[string][]string{
			"routes": {"172.246.0.0/24 via 192.168.32.246 dev eth0 onlink"}, "neighbours": nil, "fdb": nil,
		}, []string{"new route", "del route", "failed neigh", "del neigh", "del fdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := host1(t, topology.EncapVXLAN)
			ensure(t, s)
			p := peer(2, topology.EncapVXLAN, s.Uplink)
			apply(t, topology.State{Self: s, Peers: []topology.Peer{p}})
			tc.change(&p)
			seen := events(t, func() { apply(t, topology.State{Self: s, Peers: []topology.Peer{p}}) })
			if diff := cmp.Diff(tc.want, shown(t)); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.seen, seen); diff != "" {
				t.Errorf("announcements (-want +got):\n%s", diff)
			}
		})
	}
}

func TestApplyServesTheOthers(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	nstest.AddVeth(t, "br249", 1500, "172.249.0.1/24")
	peers := []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink)}
	spoil := func(n int, how func(*topology.Peer)) {
		p := peer(n, topology.EncapVXLAN, s.Uplink)
		how(&p)
		peers = append(peers, p)
	}
	spoil(3, func(p *topology.Peer) { p.VTEP.MAC = topology.MAC{} })
	spoil(4, func(p *topology.Peer) { p.VTEP.MAC = peers[0].VTEP.MAC })
	spoil(5, func(*topology.Peer) {})
	spoil(6, func(p *topology.Peer) { p.VTEP.MAC = dev.MAC })
	spoil(7, func(p *topology.Peer) { p.Encap, p.Path.Ifindex = topology.EncapNone, 4711 })
	spoil(8, func(p *topology.Peer) { p.Encap, p.Node = topology.EncapNone, s.Node })
	peers = append(peers, peer(9, topology.EncapVXLAN, s.Uplink))
	problems, err := new(View).Apply(topology.State{Self: s, Peers: peers}, dev)
	if err != nil {
		t.Fatal(err)
	}
	want := []topology.Problem{
		{Key: "172.247.0.0-24", Text: "VTEP MAC 00:00:00:00:00:00 is not the address of one device: restart the daemon of node 192.168.32.247"},
		{Key: "172.249.0.0-24", Text: "172.249.0.0/24 is also the network of this node's own br249: remove the address there, or release the lease"},
		{Key: "172.251.0.0-24", Text: "add route 172.251.0.0/24 via 192.168.32.251 dev link 4711: no such device"},
		{Key: "172.252.0.0-24", Text: "add route 172.252.0.0/24 via 192.168.32.245 dev eth0: invalid argument"},
	}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	var served []string
	for _, n := range []int{246, 248, 250, 253} {
		served = append(served, fmt.Sprintf("172.%d.0.0/24 via 172.%d.0.0 dev bpfnet0 onlink", n, n))
	}
	if diff := cmp.Diff(served, shown(t)["routes"]); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

// A second node that claims a VTEP MAC takes it from nobody, wherever it stands in the list.
func TestApplySharedMAC(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	first, second, third := peer(3, topology.EncapVXLAN, s.Uplink), peer(2, topology.EncapVXLAN, s.Uplink), peer(4, topology.EncapVXLAN, s.Uplink)
	second.VTEP.MAC, third.VTEP.MAC = first.VTEP.MAC, first.VTEP.MAC
	third.Node = first.Node // and two leases of one node are nothing wrong
	apply(t, topology.State{Self: s, Peers: []topology.Peer{first}})
	want := shown(t)["fdb"]
	apply(t, topology.State{Self: s, Peers: []topology.Peer{second, first, third}})
	got := shown(t)
	if diff := cmp.Diff(want, got["fdb"]); diff != "" {
		t.Errorf("FDB (-want +got):\n%s", diff)
	}
	if len(got["routes"]) != 3 || len(got["neighbours"]) != 3 {
		t.Errorf("not all three are served: %v", got)
	}
}

// The route to a peer carries what the path does, where that is less than the
// network's packets: in place, in front of another's, written once, and back.
func TestApplyPathMTU(t *testing.T) {
	for encap, want := range map[topology.Encap]string{
		topology.EncapVXLAN: "via 172.246.0.0 dev bpfnet0 proto 98 onlink mtu 1350",
		topology.EncapIPIP:  "via 192.168.32.246 dev bpfnet0 proto 98 onlink mtu 1380",
		topology.EncapUDP:   "via 192.168.32.246 dev bpfnet0 proto 98 onlink mtu 1372",
		topology.EncapNone:  "via 192.168.32.246 dev eth0 proto 98 onlink mtu 1400",
	} {
		t.Run(string(encap), func(t *testing.T) {
			s := host1(t, encap)
			s.MTU = 1500 - encap.Overhead(s.Node)
			ensure(t, s)
			nstest.AddRoute(t, "172.246.0.0/24", "192.168.32.9")
			routes := func() []string { return ip(t, "ip", "route", "show", "172.246.0.0/24") }
			const foreign = "172.246.0.0/24 via 192.168.32.9 dev eth0"
			p := peer(2, encap, s.Uplink)
			apply(t, topology.State{Self: s, Peers: []topology.Peer{p}})
			wide := routes()
			p.Path.MTU = 1400
			narrow := topology.State{Self: s, Peers: []topology.Peer{p}}
			apply(t, narrow)
			if diff := cmp.Diff([]string{"172.246.0.0/24 " + want, foreign}, routes()); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if seen := events(t, func() { apply(t, narrow) }); len(seen) != 0 {
				t.Errorf("the second Apply wrote:\n%s", strings.Join(seen, "\n"))
			}
			p.Path.MTU = 1500
			apply(t, topology.State{Self: s, Peers: []topology.Peer{p}})
			if diff := cmp.Diff(wide, routes()); diff != "" {
				t.Errorf("routes once the path is wide again (-want +got):\n%s", diff)
			}
			p.Path.MTU = 60
			apply(t, topology.State{Self: s, Peers: []topology.Peer{p}})
			apply(t, topology.State{Self: s})
			if diff := cmp.Diff([]string{foreign}, routes()); diff != "" {
				t.Errorf("routes after ours went (-want +got):\n%s", diff)
			}
		})
	}
}

// Another's route to the same subnet yields to ours without being touched.
func TestApplyGoesInFrontOfForeignRoutes(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	nstest.AddRoute(t, "172.246.0.0/24", "192.168.32.9")
	state := topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink)}}
	apply(t, state)
	if diff := cmp.Diff([]string{"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 proto 98 onlink", "172.246.0.0/24 via 192.168.32.9 dev eth0"},
		ip(t, "ip", "route", "show", "172.246.0.0/24")); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if got := ip(t, "ip", "route", "get", "172.246.0.2"); !strings.Contains(got[0], "dev bpfnet0") {
		t.Errorf("the kernel takes %s", got[0])
	}
	apply(t, topology.State{Self: s})
	if diff := cmp.Diff([]string{"172.246.0.0/24 via 192.168.32.9 dev eth0"}, ip(t, "ip", "route", "show", "172.246.0.0/24")); diff != "" {
		t.Errorf("routes after ours went (-want +got):\n%s", diff)
	}
}

func TestCleanup(t *testing.T) {
	for _, encap := range []topology.Encap{topology.EncapVXLAN, topology.EncapUDP, topology.EncapNone} {
		t.Run(string(encap), func(t *testing.T) {
			s := host1(t, encap)
			before := ip(t, "ip", "-4", "route", "show", "table", "all")
			ensure(t, s)
			apply(t, topology.State{Self: s, Peers: []topology.Peer{peer(2, encap, s.Uplink), peer(3, topology.EncapNone, s.Uplink)}})
			for range 2 {
				if err := Cleanup(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, ip(t, "ip", "-4", "route", "show", "table", "all")); diff != "" {
				t.Errorf("routes (-before +after):\n%s", diff)
			}
			for _, name := range Names() {
				if _, err := net.InterfaceByName(name); err == nil {
					t.Errorf("%s is still there", name)
				}
			}
		})
	}
}

// Ten thousand peers fit although the neighbour table's limit is a tenth of it:
// permanent entries do not count.
func TestApplyTenThousandPeers(t *testing.T) {
	const n = 10_000
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	state := topology.State{Self: s}
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		p := peer(2, topology.EncapVXLAN, s.Uplink)
		p.Key = fmt.Sprintf("10.%d.%d.0-24", hi, lo)
		p.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, hi, lo, 0}), 24)
		p.Node = netip.AddrFrom4([4]byte{192, 169, hi, lo})
		p.VTEP = topology.VTEP{MAC: topology.MAC{0xc6, 1, 0, 0, hi, lo}, Addr: p.Subnet.Addr()}
		state.Peers = append(state.Peers, p)
	}
	fds := openFiles(t)
	start := time.Now()
	apply(t, state)
	first := time.Since(start)
	var second time.Duration
	if seen := events(t, func() { start = time.Now(); apply(t, state); second = time.Since(start) }); len(seen) != 0 {
		t.Errorf("the second Apply made %d announcements", len(seen))
	}
	t.Logf("first Apply %s, second %s", first, second)
	for what, got := range shown(t) {
		if len(got) != n {
			t.Errorf("%d %s, want %d", len(got), what, n)
		}
	}
	if err := Cleanup(); err != nil {
		t.Fatal(err)
	}
	if got := openFiles(t); got > fds { // of what others have left some may be closed meanwhile
		t.Errorf("%d files open, %d before", got, fds)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
