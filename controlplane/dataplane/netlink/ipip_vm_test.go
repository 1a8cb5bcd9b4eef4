// SPDX-License-Identifier: Apache-2.0

//go:build root && vm

package netlink

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// The kernel's device for each two families is made once, serves every peer, and
// gives way to the programs' device.
func TestIPIPDevices(t *testing.T) {
	for name, test := range map[string]struct {
		families func(self4, self6 topology.Self) (topology.Self, func(n int) topology.Peer)
		device   string
		want     []string // routes to the hosts 2 and 3
	}{
		"IPv4 in IPv4": {in4, IPIPName, []string{
			"172.246.0.0/24 via 192.168.32.246 dev bpfnet-ipip onlink",
			"172.247.0.0/24 via 192.168.32.247 dev bpfnet-ipip onlink",
		}},
		"IPv6 in IPv4": {sixIn4, SITName, []string{
			"2001:db8:42:2::/64 via ::192.168.32.246 dev bpfnet-sit metric 98 onlink pref medium",
			"2001:db8:42:3::/64 via ::192.168.32.247 dev bpfnet-sit metric 98 onlink pref medium",
		}},
		"IPv4 in IPv6": {fourIn6, IP6Name, []string{
			"172.246.0.0/24 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::246 hoplimit 0 tc 0 via 172.246.0.0 dev bpfnet-ip6 onlink",
			"172.247.0.0/24 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::247 hoplimit 0 tc 0 via 172.247.0.0 dev bpfnet-ip6 onlink",
		}},
		"IPv6 in IPv6": {in6, IP6Name, []string{
			"2001:db8:42:2::/64 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::246 hoplimit 0 tc 0 via 2001:db8:42:2:: dev bpfnet-ip6 metric 98 onlink pref medium",
			"2001:db8:42:3::/64 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::247 hoplimit 0 tc 0 via 2001:db8:42:3:: dev bpfnet-ip6 metric 98 onlink pref medium",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			self4, self6 := host1v6(t, topology.EncapIPIP)
			s, peerOf := test.families(self4, self6)
			dev := carrierDevice(t, s, Kernel)
			if dev.Name != test.device {
				t.Fatalf("device %s, want %s", dev.Name, test.device)
			}
			if seen := events(t, func() { carrierDevice(t, s, Kernel) }); len(seen) > 0 {
				t.Errorf("the same again wrote %q", seen)
			}
			state := topology.State{Self: s, Peers: []topology.Peer{peerOf(2), peerOf(3)}}
			carried(t, state, dev)
			if diff := cmp.Diff(test.want, ipipRoutes(t)); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if seen := events(t, func() { carried(t, state, dev) }); len(seen) > 0 {
				t.Errorf("the second Apply wrote %q", seen)
			}
			other := carrierDevice(t, s, Programs)
			carried(t, state, other)
			if err := RemoveOthers(other); err != nil {
				t.Fatal(err)
			}
			if _, err := netlink.LinkByName(test.device); err == nil {
				t.Errorf("%s is still there", test.device)
			}
			carried(t, state, carrierDevice(t, s, Kernel))
			if diff := cmp.Diff(test.want, ipipRoutes(t)); diff != "" {
				t.Errorf("routes, back by the kernel (-want +got):\n%s", diff)
			}
		})
	}
}

func in4(self4, _ topology.Self) (topology.Self, func(int) topology.Peer) {
	return self4, func(n int) topology.Peer { return peer(n, topology.EncapIPIP, self4.Uplink) }
}

func in6(_, self6 topology.Self) (topology.Self, func(int) topology.Peer) {
	return self6, func(n int) topology.Peer { return peer6(n, topology.EncapIPIP, self6.Uplink) }
}

func fourIn6(self4, self6 topology.Self) (topology.Self, func(int) topology.Peer) {
	self4.Node, self4.Other = netip.Addr{}, self6.Node
	return self4, func(n int) topology.Peer { return crossed(peer(n, topology.EncapIPIP, self4.Uplink), n) }
}

func sixIn4(self4, self6 topology.Self) (topology.Self, func(int) topology.Peer) {
	self6.Node, self6.Other = netip.Addr{}, self4.Node
	return self6, func(n int) topology.Peer { return crossed(peer6(n, topology.EncapIPIP, self6.Uplink), n) }
}

// crossed is a peer that is host n with its node's address of the other family.
func crossed(p topology.Peer, n int) topology.Peer {
	other := peer6(n, p.Encap, p.Path.Ifindex)
	if p.Node.Is6() {
		other = peer(n, p.Encap, p.Path.Ifindex)
	}
	p.Node, p.Path = other.Node, other.Path
	return p
}

// carried is apply with that device.
func carried(t *testing.T, s topology.State, dev Device) {
	t.Helper()
	if problems, err := new(View).Apply(s, dev); err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
}

func ipipRoutes(t *testing.T) []string {
	t.Helper()
	return append(ip(t, "ip", "route", "show", "proto", "98"), ip(t, "ip", "-6", "route", "show", "proto", "98")...)
}

// A dual-stack node has a peer that has an address of one family alone, by which
// both networks reach it: a second device is made for it, and goes when it has.
// A peer that moves is followed in place.
func TestIPIPAcross(t *testing.T) {
	self4, self6 := host1v6(t, topology.EncapIPIP)
	self4.Other, self6.Other = self6.Node, self4.Node
	dev4, dev6 := carrierDevice(t, self4, Kernel), carrierDevice(t, self6, Kernel)
	var view4, view6 View
	step := func(peers4, peers6 []topology.Peer, want ...string) {
		t.Helper()
		for _, a := range []struct {
			view  *View
			state topology.State
			dev   Device
		}{{&view4, topology.State{Self: self4, Peers: peers4}, dev4}, {&view6, topology.State{Self: self6, Peers: peers6}, dev6}} {
			if problems, err := a.view.Apply(a.state, a.dev); err != nil || len(problems) > 0 {
				t.Fatal(err, problems)
			}
		}
		if err := RemoveOthers(dev4, dev6, view4.Across(), view6.Across()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ipipRoutes(t)); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
	}
	usual4, usual6 := peer(2, topology.EncapIPIP, self4.Uplink), peer6(2, topology.EncapIPIP, self4.Uplink)
	route4 := "172.246.0.0/24 via 192.168.32.246 dev bpfnet-ipip onlink"
	route6 := "2001:db8:42:2::/64 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::246 hoplimit 0 tc 0 via 2001:db8:42:2:: dev bpfnet-ip6 metric 98 onlink pref medium"
	step([]topology.Peer{usual4}, []topology.Peer{usual6}, route4, route6)
	step([]topology.Peer{usual4, crossed(peer(3, topology.EncapIPIP, self4.Uplink), 3)}, []topology.Peer{usual6}, route4,
		"172.247.0.0/24 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::247 hoplimit 0 tc 0 via 172.247.0.0 dev bpfnet-ip6 onlink", route6)
	moved := []topology.Peer{usual4, crossed(peer(3, topology.EncapIPIP, self4.Uplink), 8)}
	step(moved, []topology.Peer{crossed(usual6, 2)}, route4,
		"172.247.0.0/24 encap ip6 id 0 src 2001:db8:32::245 dst 2001:db8:32::252 hoplimit 0 tc 0 via 172.247.0.0 dev bpfnet-ip6 onlink",
		"2001:db8:42:2::/64 via ::192.168.32.246 dev bpfnet-sit metric 98 onlink pref medium")
	for _, v := range []*View{&view4, &view6} { // as the node does once a minute
		v.Doubt()
	}
	step([]topology.Peer{usual4}, []topology.Peer{usual6}, route4, route6)
	if _, err := netlink.LinkByName(SITName); err == nil {
		t.Errorf("%s is still there", SITName)
	}
}

// The kernel's one ip6tnl device for what is for no other is somebody else's: that
// is said, and the peers that need none are served.
func TestIPIPAcrossRefused(t *testing.T) {
	self4, self6 := host1v6(t, topology.EncapIPIP)
	self4.Other = self6.Node
	ip(t, "ip", "link", "add", "theirs", "type", "ip6tnl", "external")
	dev := carrierDevice(t, self4, Kernel)
	problems, err := new(View).Apply(topology.State{Self: self4, Peers: []topology.Peer{
		peer(2, topology.EncapIPIP, self4.Uplink), crossed(peer(3, topology.EncapIPIP, self4.Uplink), 3),
	}}, dev)
	if err != nil {
		t.Fatal(err)
	}
	want := []topology.Problem{{Key: "172.247.0.0-24", Text: "node 2001:db8:32::247 has an address of the other family alone: create bpfnet-ip6: " +
		"device theirs already has all tunnels over IPv6 that are no other device's (external): " +
		`stop what made it and run "ip link delete theirs": file exists`}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"172.246.0.0/24 via 192.168.32.246 dev bpfnet-ipip onlink"}, ipipRoutes(t)); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

// flannel.ipip as flanneld 0.28.4 makes it (pkg/backend/ipip/ipip.go) becomes ours while it is up.
func TestTakeOverIPIPFromFlannel(t *testing.T) {
	renamesLive(t)
	s := host1(t, topology.EncapIPIP)
	ip(t, "ip", "link", "add", "flannel.ipip", "type", "ipip", "local", s.Node.String(), "nopmtudisc")
	ip(t, "ip", "link", "set", "flannel.ipip", "mtu", "1480", "up")
	before := nstest.Link(t, "flannel.ipip").Attrs().Index
	if dev := carrierDevice(t, s, Kernel); dev.Name != IPIPName || dev.Ifindex != before {
		t.Errorf("device %+v, want %s with number %d", dev, IPIPName, before)
	}
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	if now := nstest.Link(t, "flannel.ipip").Attrs().Index; now != before {
		t.Errorf("flannel.ipip has number %d, want %d", now, before)
	}
}
