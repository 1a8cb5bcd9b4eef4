// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// TestNextHop has the kernel's neighbours and routes change, and packets to a peer run: by the MACs in their Ethernet
// header they leave, or by those of before, and then it is the kernel that sends them.
func TestNextHop(t *testing.T) {
	one, other, gateway := topology.MAC{2, 0, 0, 0, 0, 0x71}, topology.MAC{2, 0, 0, 0, 0, 0x72}, topology.MAC{2, 0, 0, 0, 0, 0x73}
	connectUplink(t)
	for _, peer := range []struct {
		encap topology.Encap
		port  uint16
		node  netip.Addr // the peer of the lab with that encapsulation
	}{
		{topology.EncapVXLAN, 8472, node2},
		{topology.EncapNone, 0, node5},
	} {
		t.Run(string(peer.encap), func(t *testing.T) {
			s := daemonsState(peer.encap, peer.port, peer.node)
			far := s.Peers[0] // its next hop has the same place as the first one's
			far.Key, far.Subnet, far.Node = "172.247.0.0-24", netip.MustParsePrefix("172.247.0.0/24"), samePlace(peer.node)
			far.Path.NextHop = far.Node
			s.Peers = append(s.Peers, far)
			for i := range s.Peers {
				s.Peers[i].Path.Ethernet = true
			}
			router := netip.MustParseAddr("192.168.32.1")
			h := &hop{t, daemonsMachine(t, s, c1), peer.node, nstest.Pin(t, 0), nil}
			h.unsent("nothing known")
			h.resolve(peer.node, one)
			h.sentTo("a neighbour", one)
			h.resolve(peer.node, other)
			h.sentTo("a neighbour that changed", other)
			must(t, netlink.NeighDel(neighbour(peer.node, other)))
			h.unsent("no neighbour any more")
			resolving := neighbour(peer.node, topology.MAC{})
			resolving.State, resolving.HardwareAddr = netlink.NUD_INCOMPLETE, nil
			must(t, netlink.NeighSet(resolving))
			h.unsent("being resolved")

			// By its route there is another in between, which is not where the daemon says.
			h.resolve(router, gateway)
			h.resolve(peer.node, one)
			by := &netlink.Route{LinkIndex: int(uplink.ifindex), Dst: hostRoute(peer.node), Gw: router.AsSlice()}
			must(t, netlink.RouteAdd(by))
			h.unsent("behind a gateway")
			must(t, netlink.RouteDel(by))
			h.sentTo("a neighbour again", one)

			withoutEthernet(h, s)

			h.resolve(far.Node, other)
			for range 200 {
				h.run(remote3)
				h.run(remote2)
			}
			if h.known() {
				t.Error("of two next hops in turn one is known: each packet asked the kernel")
			}
			for _, n := range []netip.Addr{peer.node, far.Node, router} {
				must(t, netlink.NeighDel(neighbour(n, one)))
			}
		})
	}
}

// withoutEthernet: an uplink with other headers, or none, is the kernel's to fill them in.
func withoutEthernet(h *hop, s topology.State) {
	h.Helper()
	s.Peers = slices.Clone(s.Peers)
	for i := range s.Peers {
		s.Peers[i].Path.Ethernet = false
	}
	other := &hop{h.T, daemonsMachine(h.T, s, c1), h.peer, h.cpu, nil}
	for range 5 {
		other.run(remote2)
	}
	if e := other.entry(); e != (bpf.DatapathNextHop{}) {
		h.Errorf("the kernel was asked about a link without Ethernet: %+v", e)
	}
}

// hop runs packets to a peer.
type hop struct {
	*testing.T
	m    *machine
	peer netip.Addr
	cpu  int
	macs []byte // of the last frame
}

// run sends one packet and takes note of the MACs it has then.
func (h *hop) run(to netip.Addr) {
	h.Helper()
	in := fromC1(datagram{src: c1, dst: to})
	verdict, out, err := h.m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, in)
	must(h.T, err)
	h.macs = bytes.Clone(out[:12])
	if verdict != actRedirect {
		h.Fatalf("verdict %d", verdict)
	}
	if to != remote2 {
		return
	}
	want := sent(join(h.macs, in.frame[12:]), h.peer, datagram{src: c1, dst: to}.hop(1).bytes())
	out, err = h.m.settle(sentReason(h.peer), out)
	must(h.T, err)
	compareFrames(h.T, h.peer.String(), want, out)
}

// entry is what the programs know of the next hop on this CPU.
func (h *hop) entry() bpf.DatapathNextHop {
	h.Helper()
	var perCPU []bpf.DatapathNextHop
	must(h.T, h.m.collection.Maps[bpf.DatapathMapNextHops].Lookup(uint32(h.peer.As4()[3]), &perCPU))
	return perCPU[h.cpu]
}

func (h *hop) known() bool { return h.entry().Known != 0 }

// sentTo runs packets until one leaves for that MAC, and then some more.
func (h *hop) sentTo(what string, mac topology.MAC) {
	h.Helper()
	want := join(mac[:], uplink.mac[:])
	h.until(what+": sent to it", func() bool { return bytes.Equal(h.macs, want) })
	h.untilAsked(what, want)
}

// unsent runs packets until the kernel has been asked twice: what it said is over by then, and it sends them itself.
func (h *hop) unsent(what string) {
	h.Helper()
	h.run(remote2)
	h.untilAsked(what, nil)
	h.untilAsked(what, nil)
	h.untilAsked(what, join(bridgeMAC[:], c1MAC[:])) // as the container has sent it
}

// untilAsked runs packets until the kernel is asked about the next hop. All have to leave by these MACs, if any are given.
func (h *hop) untilAsked(what string, want []byte) {
	h.Helper()
	asked := h.entry().Asked
	h.until(what+": the kernel is asked", func() bool {
		if h.entry().Asked != asked {
			return true // by a packet that the kernel then sends
		}
		if want != nil && !bytes.Equal(h.macs, want) {
			h.Fatalf("%s: sent by % x, want % x, of %+v", what, h.macs, want, h.entry())
		}
		return false
	})
}

// until runs packets until something is so.
func (h *hop) until(what string, done func() bool) {
	h.Helper()
	for deadline := time.Now().Add(patience); !done(); h.run(remote2) {
		if time.Now().After(deadline) {
			h.Fatalf("%s: not after %v: % x, %+v", what, patience, h.macs, h.entry())
		}
	}
}

// resolve has the kernel know a neighbour.
func (h *hop) resolve(a netip.Addr, mac topology.MAC) {
	h.Helper()
	must(h.T, netlink.NeighSet(neighbour(a, mac)))
}

func neighbour(a netip.Addr, mac topology.MAC) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: int(uplink.ifindex), Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:]}
}

func hostRoute(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

// samePlace is another address whose place in next_hops is the same.
func samePlace(a netip.Addr) netip.Addr {
	b := a.As4()
	b[2]++
	return netip.AddrFrom4(b)
}

// connectUplink gives the node its address on the uplink, by which it forwards, for the time of a test.
func connectUplink(t *testing.T) {
	t.Helper()
	link, err := netlink.LinkByIndex(int(uplink.ifindex))
	must(t, err)
	peer, err := netlink.LinkByName("peer-" + uplink.name)
	must(t, err)
	forwarding := func(on string) {
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+uplink.name+"/forwarding", []byte(on), 0))
	}
	forwarding("1")
	address := &netlink.Addr{IPNet: &net.IPNet{IP: node1.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	must(t, netlink.LinkSetUp(link))
	must(t, netlink.LinkSetUp(peer))
	must(t, netlink.AddrAdd(link, address))
	t.Cleanup(func() {
		forwarding("0")
		must(t, netlink.AddrDel(link, address))
		must(t, netlink.LinkSetDown(link))
		must(t, netlink.LinkSetDown(peer))
	})
}
