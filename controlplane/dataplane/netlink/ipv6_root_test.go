// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// host1v6 enters a namespace that is host 1 of a dual-stack lab and returns what
// its daemon knows of itself in the IPv4 and in the IPv6 network.
func host1v6(t *testing.T, encap topology.Encap) (self4, self6 topology.Self) {
	t.Helper()
	nstest.Enter(t)
	self4 = topology.Self{
		Subnet: netip.MustParsePrefix("172.245.0.0/24"),
		Node:   netip.MustParseAddr("192.168.32.245"),
		Uplink: nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24", "2001:db8:32::245/64"),
		Encap:  encap,
		VNI:    1,
		Port:   8472,
		MTU:    1430,
	}
	self6 = self4
	self6.Subnet = netip.MustParsePrefix("2001:db8:42:1::/64")
	self6.Node = netip.MustParseAddr("2001:db8:32::245")
	return self4, self6
}

// peer6 is host n in the IPv6 network: 2001:db8:32::246 with 2001:db8:42:2::/64.
func peer6(n int, encap topology.Encap, uplink int) topology.Peer {
	p := peer(n, encap, uplink)
	p.Key = fmt.Sprintf("2001:db8:42:%d::-64", n)
	p.Subnet = netip.MustParsePrefix(fmt.Sprintf("2001:db8:42:%d::/64", n))
	p.Node = netip.MustParseAddr(fmt.Sprintf("2001:db8:32::%d", 244+n))
	p.Path.NextHop = p.Node
	if encap == topology.EncapVXLAN {
		p.VTEP = topology.VTEP{MAC: topology.MAC{0xc6, 6, 0, 0, 0, byte(n)}, Addr: p.Subnet.Addr()}
	}
	return p
}

// shown6 is what iproute2 prints of our IPv6 tables.
func shown6(t *testing.T) map[string][]string {
	t.Helper()
	got := map[string][]string{"routes": ip(t, "ip", "-6", "route", "show", "proto", "98")}
	if _, err := netlink.LinkByName(Overlay6Name); err == nil {
		got["neighbours"] = ip(t, "ip", "-6", "neigh", "show", "dev", Overlay6Name)
		got["fdb"] = slices.DeleteFunc(ip(t, "bridge", "fdb", "show", "dev", Overlay6Name),
			func(line string) bool { return !strings.Contains(line, " dst ") })
		slices.Sort(got["neighbours"])
		slices.Sort(got["fdb"])
	}
	return got
}

func TestOverlay6VXLAN(t *testing.T) {
	self4, s := host1v6(t, topology.EncapVXLAN)
	s.VTEP.MAC = topology.MAC{0xc6, 6, 0, 0, 0, 1}
	dev4, dev := ensure(t, self4), ensure(t, s)
	link, ok := nstest.Link(t, Overlay6Name).(*netlink.Vxlan)
	if !ok {
		t.Fatalf("%s is no vxlan device", Overlay6Name)
	}
	got := map[string]any{
		"VNI": link.VxlanId, "port": link.Port, "uplink": link.VtepDevIndex, "source": link.SrcAddr.String(),
		"learning": link.Learning, "MTU": link.MTU,
		"sends no checksum": link.UDP6ZeroCSumTx, "takes no checksum": link.UDP6ZeroCSumRx,
		"IPv4": addrsOf(t, Overlay6Name, unix.AF_INET), "IPv6": addrsOf(t, Overlay6Name, unix.AF_INET6),
		"MAC given at creation": assignType(t, Overlay6Name),
		"device":                dev,
		"IPv4's device":         dev4.Name,
	}
	want := map[string]any{
		"VNI": 1, "port": 8472, "uplink": s.Uplink, "source": "2001:db8:32::245",
		"learning": false, "MTU": 1430,
		"sends no checksum": false, "takes no checksum": true,
		"IPv4": []string(nil), "IPv6": []string{"2001:db8:42:1::/128"},
		"MAC given at creation": "3",
		"device":                Device{Ifindex: link.Index, Name: Overlay6Name, MAC: s.VTEP.MAC},
		"IPv4's device":         OverlayName,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("overlay (-want +got):\n%s", diff)
	}
}

// Other nodes may be told that no UDP checksum is needed, but not while flanneld's device is in use.
func TestTakesZeroChecksum(t *testing.T) {
	renamesLive(t)
	_, s := host1v6(t, topology.EncapVXLAN)
	takes := func(when string, want bool) {
		t.Helper()
		if got, err := TakesZeroChecksum(s.VNI); err != nil || got != want {
			t.Errorf("%s: %t, error %v; want %t", when, got, err, want)
		}
	}
	takes("without a device", true)
	flannelLeft6(t)
	takes("before flanneld's is taken over", false)
	ensure(t, s)
	takes("once it is", false)
	ip(t, "ip", "link", "del", Overlay6Name)
	ensure(t, s)
	takes("with ours", true)
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	takes("with ours, handed over to flanneld", true)
}

// Its address can be used at once, and IPv6 is on whatever the host's default.
func TestOverlay6AddressIsNotTentative(t *testing.T) {
	for _, encap := range []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP} {
		t.Run(string(encap), func(t *testing.T) {
			_, s := host1v6(t, encap)
			if _, err := (setting{"net/ipv6/conf/default/disable_ipv6", "1"}).ensure(); err != nil {
				t.Fatal(err)
			}
			dev := ensure(t, s)
			addrs, err := netlink.AddrList(nstest.Link(t, dev.Name), unix.AF_INET6)
			if err != nil || len(addrs) != 1 {
				t.Fatalf("addresses %v, error %v", addrs, err)
			}
			if addrs[0].Flags&unix.IFA_F_TENTATIVE != 0 || addrs[0].IPNet.String() != "2001:db8:42:1::/128" {
				t.Errorf("address %s has flags %#x", addrs[0].IPNet, addrs[0].Flags)
			}
		})
	}
}

// A dual-stack node's two networks stand beside each other: neither touches what is the other's, written
// once, and each can go alone.
func TestDualStack(t *testing.T) {
	for encap, want := range map[topology.Encap]struct {
		devices []string
		via4    string
		via6    string
	}{
		topology.EncapVXLAN: {[]string{"bpfnet0", "bpfnet0-v6"}, "via 172.246.0.0 dev bpfnet0 onlink",
			"via 2001:db8:42:2:: dev bpfnet0-v6 metric 98 onlink pref medium"},
		topology.EncapIPIP: {[]string{"bpfnet0", "bpfnet0"}, "via 192.168.32.246 dev bpfnet0 onlink",
			"via 2001:db8:42:2:: dev bpfnet0 metric 98 onlink pref medium"},
		topology.EncapNone: {[]string{"", ""}, "via 192.168.32.246 dev eth0 onlink",
			"via 2001:db8:32::246 dev eth0 metric 98 onlink pref medium"},
	} {
		t.Run(string(encap), func(t *testing.T) {
			self4, self6 := host1v6(t, encap)
			state4 := topology.State{Self: self4, Peers: []topology.Peer{peer(2, encap, self4.Uplink)}}
			state6 := topology.State{Self: self6, Peers: []topology.Peer{peer6(2, encap, self6.Uplink)}}
			bring := func(s topology.State) Device {
				dev := ensure(t, s.Self)
				if problems, err := new(View).Apply(s, dev); err != nil || len(problems) > 0 {
					t.Fatal(problems, err)
				}
				return dev
			}
			dev4, dev6 := bring(state4), bring(state6)
			if diff := cmp.Diff(want.devices, []string{dev4.Name, dev6.Name}); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			seen := events(t, func() {
				bring(state4)
				bring(state6)
				if err := RemoveOthers(dev4, dev6); err != nil {
					t.Error(err)
				}
			})
			if len(seen) > 0 {
				t.Errorf("the same again wrote:\n%s", strings.Join(seen, "\n"))
			}
			check := func(what string, routes4, routes6 []string) {
				t.Helper()
				if diff := cmp.Diff(routes4, shown(t)["routes"]); diff != "" {
					t.Errorf("%s: IPv4 routes (-want +got):\n%s", what, diff)
				}
				if diff := cmp.Diff(routes6, shown6(t)["routes"]); diff != "" {
					t.Errorf("%s: IPv6 routes (-want +got):\n%s", what, diff)
				}
			}
			route4, route6 := []string{"172.246.0.0/24 " + want.via4}, []string{"2001:db8:42:2::/64 " + want.via6}
			check("both", route4, route6)
			if err := RemoveRoutes(true); err != nil {
				t.Fatal(err)
			}
			check("without IPv6", route4, nil)
			bring(state6)
			if err := RemoveRoutes(false); err != nil {
				t.Fatal(err)
			}
			check("without IPv4", nil, route6)
			if err := RemoveOthers(dev6); err != nil {
				t.Fatal(err)
			}
			if _, err := netlink.LinkByName(dev4.Name); (err == nil) != (dev4.Name == dev6.Name && dev4.Name != "") {
				t.Errorf("with IPv6 alone %q: %v", dev4.Name, err)
			}
			check("IPv6 alone", nil, route6)
			if err := Cleanup(); err != nil {
				t.Fatal(err)
			}
			check("after Cleanup", nil, nil)
		})
	}
}

// A network over nodes of the other family (in ipip).
func TestApplyCrossFamily(t *testing.T) {
	self4, self6 := host1v6(t, topology.EncapIPIP)
	self4.Node, self4.Other = netip.Addr{}, self6.Node
	self6.Node, self6.Other = netip.Addr{}, netip.MustParseAddr("192.168.32.245")
	peer4, peer6 := peer(2, topology.EncapIPIP, self4.Uplink), peer6(2, topology.EncapIPIP, self6.Uplink)
	peer4.Node, peer6.Node = peer6.Node, peer4.Node
	for _, s := range []topology.State{{Self: self4, Peers: []topology.Peer{peer4}}, {Self: self6, Peers: []topology.Peer{peer6}}} {
		dev := ensure(t, s.Self)
		if problems, err := new(View).Apply(s, dev); err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
		if seen := events(t, func() { apply(t, s) }); len(seen) > 0 {
			t.Errorf("the second Apply wrote:\n%s", strings.Join(seen, "\n"))
		}
	}
	want := []string{
		"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink",
		"2001:db8:42:2::/64 via 2001:db8:42:2:: dev bpfnet0 metric 98 onlink pref medium",
	}
	if diff := cmp.Diff(want, append(shown(t)["routes"], shown6(t)["routes"]...)); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	for _, self := range []topology.Self{self4, self6} {
		apply(t, topology.State{Self: self})
	}
	if left := append(shown(t)["routes"], shown6(t)["routes"]...); len(left) > 0 {
		t.Errorf("routes are left: %q", left)
	}
}

// A peer of IPv6 that moves is followed without a gap.
func TestApply6FollowsAPeer(t *testing.T) {
	const route = "2001:db8:42:2::/64 via 2001:db8:42:2:: dev bpfnet0-v6 metric 98 onlink"
	standing := map[string][]string{
		"routes":     {route + " pref medium"},
		"neighbours": {"2001:db8:42:2:: lladdr c6:06:00:00:00:02 PERMANENT"},
		"fdb":        {"c6:06:00:00:00:02 dst 2001:db8:32::246 self permanent"},
	}
	with := func(table, line string) map[string][]string {
		m := map[string][]string{"routes": standing["routes"], "neighbours": standing["neighbours"], "fdb": standing["fdb"]}
		m[table] = []string{line}
		return m
	}
	moved := with("neighbours", "2001:db8:42:2:: lladdr c6:06:00:00:00:22 PERMANENT")
	moved["fdb"] = []string{"c6:06:00:00:00:22 dst 2001:db8:32::246 self permanent"}
	for name, tc := range map[string]struct {
		change func(*topology.Peer)
		want   map[string][]string
		seen   []string
	}{
		"MAC": {func(p *topology.Peer) { p.VTEP.MAC[5] = 0x22 }, moved, []string{"new fdb", "new neigh", "del fdb"}},
		"node": {func(p *topology.Peer) { p.Node = netip.MustParseAddr("2001:db8:32::22") },
			with("fdb", "c6:06:00:00:00:02 dst 2001:db8:32::22 self permanent"), []string{"new fdb"}},
		"path MTU": {func(p *topology.Peer) { p.Path.MTU = 1400 },
			with("routes", route+" mtu 1330 pref medium"), []string{"new route"}},
		"path MTU that is less than IPv6's": {func(p *topology.Peer) { p.Path.MTU = 1300 },
			with("routes", route+" mtu 1280 pref medium"), []string{"new route"}},
		"to direct routing": {func(p *topology.Peer) { p.Encap = topology.EncapNone }, map[string][]string{
			"routes": {"2001:db8:42:2::/64 via 2001:db8:32::246 dev eth0 metric 98 onlink pref medium"}, "neighbours": nil, "fdb": nil,
		}, []string{"new route", "failed neigh", "del neigh", "del fdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, s := host1v6(t, topology.EncapVXLAN)
			ensure(t, s)
			p := peer6(2, topology.EncapVXLAN, s.Uplink)
			apply(t, topology.State{Self: s, Peers: []topology.Peer{p}})
			if diff := cmp.Diff(standing, shown6(t)); diff != "" {
				t.Errorf("tables before (-want +got):\n%s", diff)
			}
			tc.change(&p)
			state := topology.State{Self: s, Peers: []topology.Peer{p}}
			seen := events(t, func() { apply(t, state) })
			if diff := cmp.Diff(tc.want, shown6(t)); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.seen, seen); diff != "" {
				t.Errorf("announcements (-want +got):\n%s", diff)
			}
			if seen := events(t, func() { apply(t, state) }); len(seen) > 0 {
				t.Errorf("the second Apply wrote:\n%s", strings.Join(seen, "\n"))
			}
			apply(t, topology.State{Self: s, Peers: []topology.Peer{peer6(2, topology.EncapVXLAN, s.Uplink)}})
			if diff := cmp.Diff(standing, shown6(t)); diff != "" {
				t.Errorf("tables when it is as before (-want +got):\n%s", diff)
			}
		})
	}
}

// Another's route to the same subnet yields to ours, shares no packet with it, and is
// left alone, as are other entries that are not ours.
func TestApply6PrunesOursOnly(t *testing.T) {
	_, s := host1v6(t, topology.EncapVXLAN)
	ensure(t, s)
	const foreign = "2001:db8:42:2::/64 via 2001:db8:32::9 dev eth0 metric 1024 pref medium"
	for _, cmd := range []string{
		"ip route add 2001:db8:42:2::/64 via 2001:db8:32::9",
		"ip route add 2001:db8:99::/64 via 2001:db8:32::1",
		"ip neigh replace 2001:db8:42:9:: lladdr c6:00:00:00:00:08 nud stale dev bpfnet0-v6",
		"bridge fdb append 00:00:00:00:00:00 dev bpfnet0-v6 dst 2001:db8:32::99",
	} {
		ip(t, strings.Fields(cmd)...)
	}
	apply(t, topology.State{Self: s, Peers: []topology.Peer{
		peer6(2, topology.EncapVXLAN, s.Uplink), peer6(3, topology.EncapVXLAN, s.Uplink), peer6(4, topology.EncapNone, s.Uplink),
	}})
	if diff := cmp.Diff([]string{"2001:db8:42:2::/64 via 2001:db8:42:2:: dev bpfnet0-v6 proto 98 metric 98 onlink pref medium", foreign},
		ip(t, "ip", "-6", "route", "show", "2001:db8:42:2::/64")); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	apply(t, topology.State{Self: s})
	want := map[string][]string{
		"routes":     nil,
		"neighbours": {"2001:db8:42:9:: lladdr c6:00:00:00:00:08 STALE"},
		"fdb":        {"00:00:00:00:00:00 dst 2001:db8:32::99 self permanent"},
	}
	if diff := cmp.Diff(want, shown6(t)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	left := append(ip(t, "ip", "-6", "route", "show", "2001:db8:42:2::/64"), ip(t, "ip", "-6", "route", "show", "2001:db8:99::/64")...)
	if diff := cmp.Diff([]string{foreign, "2001:db8:99::/64 via 2001:db8:32::1 dev eth0 metric 1024 pref medium"}, left); diff != "" {
		t.Errorf("what is not ours (-want +got):\n%s", diff)
	}
}

func TestApply6ServesTheOthers(t *testing.T) {
	_, s := host1v6(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	nstest.AddVeth(t, "br3", 1500, "2001:db8:42:3::1/64")
	own := peer6(5, topology.EncapNone, s.Uplink)
	own.Node = s.Node
	problems, err := new(View).Apply(topology.State{Self: s, Peers: []topology.Peer{
		peer6(2, topology.EncapVXLAN, s.Uplink), peer6(3, topology.EncapVXLAN, s.Uplink), peer6(4, topology.EncapVXLAN, s.Uplink), own,
	}}, dev)
	if err != nil {
		t.Fatal(err)
	}
	want := []topology.Problem{
		{Key: "2001:db8:42:3::-64", Text: "2001:db8:42:3::/64 is also the network of this node's own br3: remove the address there, or release the lease"},
		{Key: "2001:db8:42:5::-64", Text: "add route 2001:db8:42:5::/64 via 2001:db8:32::245 dev eth0: invalid argument"},
	}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if got := shown6(t)["routes"]; len(got) != 2 {
		t.Errorf("routes %q, want those to peers 2 and 4", got)
	}
}

func TestOverlay6Refusals(t *testing.T) {
	for name, tc := range map[string]struct {
		carrier Carrier
		change  func(*testing.T, *topology.Self)
		want    string
	}{
		"udp": {Programs, func(_ *testing.T, s *topology.Self) { s.Encap = topology.EncapUDP },
			"the backend udp carries IPv4 only, as flannel's does: choose vxlan, ipip or host-gw for an IPv6 network"},
		"6to4 by the kernel": {Kernel, func(_ *testing.T, s *topology.Self) {
			s.Encap, s.Subnet = topology.EncapIPIP, netip.MustParsePrefix("2002:c000:201:1::/64")
			s.Node, s.Other = netip.Addr{}, netip.MustParseAddr("192.168.32.245")
		}, "the kernel's sit device takes 2002:c000:201:1::/64 for 6to4 addresses: choose the dataplane ebpf, or another network"},
		"MTU": {Programs, func(_ *testing.T, s *topology.Self) { s.MTU = 1279 },
			"packets of 1279 bytes are too small for 2001:db8:42:1::/64, which needs 1280: raise the uplink's MTU"},
		"another holds the VNI": {Kernel, func(t *testing.T, _ *topology.Self) {
			ip(t, strings.Fields("ip link add vxlan7 type vxlan id 1 dev eth0 local 2001:db8:32::245 dstport 8472 udp6zerocsumrx")...)
		}, `create bpfnet0-v6: device vxlan7 already has VNI 1 on port 8472: stop what made it and run "ip link delete vxlan7", or choose another VNI: file exists`},
	} {
		t.Run(name, func(t *testing.T) {
			_, s := host1v6(t, topology.EncapVXLAN)
			tc.change(t, &s)
			if _, err := EnsureOverlay(s, tc.carrier); err == nil || err.Error() != tc.want {
				t.Errorf("got error %v, want %s", err, tc.want)
			}
		})
	}
}
