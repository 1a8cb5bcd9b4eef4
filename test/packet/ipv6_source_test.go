// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestIPv6TunnelSources: who may send what by a tunnel.
func TestIPv6TunnelSources(t *testing.T) {
	for _, tun := range tunnelsV6 {
		t.Run(tun.name, func(t *testing.T) {
			from := func(name string, outer, inner netip.Addr, reason bpf.DatapathReason) caseV6 {
				d := tun.datagram(inner, tun.container(), 64, 0)
				c := caseV6{name: name, program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, in: tun.arrives(tun.wrap(outer, 0, d)), reason: reason}
				if action(reason) == actShot {
					c.event = dropEvent{outer, inner, tun.container()}
				} else {
					c.out = etherType(c1MAC, bridgeMAC, tun.etherType(), tun.datagram(inner, tun.container(), 63, 0))
				}
				return c
			}
			stray := netip.MustParseAddr("2001:db8:32:0:1::246") // differs from a peer's address in one middle word
			nobody := strangerV6
			if tun.self.Is4() {
				nobody, stray = stranger, node4
			}
			other := tun.pick(remoteV6.Next(), remote2.Next())
			cases := []caseV6{
				from("a container", tun.node, tun.remote(), bpf.DatapathReasonFORWARD_DELIVERED),
				from("another container", tun.node, other, bpf.DatapathReasonFORWARD_DELIVERED),
				from("the other peer's", tun.third, tun.remote3(), bpf.DatapathReasonFORWARD_DELIVERED),
				from("a stranger with a peer's container", nobody, tun.remote(), bpf.DatapathReasonDROP_UNKNOWN_HOST),
				from("a stranger with its own address", nobody, tun.outside(), bpf.DatapathReasonDROP_UNKNOWN_HOST),
				from("almost a peer", stray, tun.remote(), bpf.DatapathReasonDROP_UNKNOWN_HOST),
				from("another peer's container", tun.node, tun.remote3(), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("the other way round", tun.third, tun.remote(), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("a container of ours", tun.node, tun.newborn(), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("the receiver itself", tun.node, tun.container(), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("from outside", tun.node, tun.outside(), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("a subnet of nobody", tun.node, tun.pick(noLeaseV6, noLease), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("this node", tun.node, tun.pick(nodeV6, node1), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("another peer itself", tun.node, tun.pick(thirdV6, node3), bpf.DatapathReasonDROP_SPOOFED_SOURCE),
				from("this node as a peer", tun.self, tun.remote(), bpf.DatapathReasonDROP_UNKNOWN_HOST),
			}
			if tun.node.Is4() == (tun.inner == 4) {
				cases = append(cases, from("the peer itself", tun.node, tun.node, bpf.DatapathReasonFORWARD_DELIVERED))
			}
			if tun.inner == 6 {
				cases = append(cases,
					from("link-local", tun.node, linkLocalV6, bpf.DatapathReasonDROP_SPOOFED_SOURCE),
					from("unspecified", tun.node, unspecified, bpf.DatapathReasonDROP_SPOOFED_SOURCE),
					from("multicast", tun.node, allNodes, bpf.DatapathReasonDROP_SPOOFED_SOURCE))
			}
			for i := range cases { // an event cannot tell :: from none
				if cases[i].event.src == unspecified {
					cases[i].event.src = netip.Addr{}
				}
			}
			tun.machine(t).checkAllV6(t, cases)
		})
	}
}

// TestIPv6ContainerSources: what a container may call itself.
func TestIPv6ContainerSources(t *testing.T) {
	from := func(name string, src, dst netip.Addr, reason bpf.DatapathReason) caseV6 {
		c := caseV6{name: name, program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER, reason: reason}
		c.in = fromContainerV6(packetV6{src: src, dst: dst}.bytes())
		if action(reason) == actShot {
			c.event = dropEvent{src: src, dst: dst}
		}
		return c
	}
	local := from("to its neighbour", containerV6, secondV6, bpf.DatapathReasonFORWARD_LOCAL)
	local.out = etherType(c2MAC, bridgeMAC, 0x86dd, packetV6{src: containerV6, dst: secondV6, hops: 63}.bytes())
	none := from("unspecified, to a peer", unspecified, remoteV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE)
	none.event.src = netip.Addr{}
	cases := []caseV6{
		local, none,
		from("its neighbour's, to a peer", secondV6, remoteV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("its neighbour's, to the world", secondV6, internetV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("no address, to the world", netip.IPv6Unspecified(), internetV6, bpf.DatapathReasonPASS_UNKNOWN_SOURCE),
		from("its own, to no address", containerV6, netip.IPv6Unspecified(), bpf.DatapathReasonPASS_NO_ROUTE),
		from("not learned, to a peer", newbornV6, remoteV6, bpf.DatapathReasonPASS_UNKNOWN_SOURCE),
		from("not learned, to the world", newbornV6, internetV6, bpf.DatapathReasonPASS_UNKNOWN_SOURCE),
		from("another node's, to a peer", remoteV6, remote3V6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("another node's, to a neighbour", remoteV6, secondV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("another node's, to the world", remoteV6, internetV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("from outside, to a peer", internetV6, remoteV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("this node's, to a peer", nodeV6, remoteV6, bpf.DatapathReasonDROP_CONTAINER_SOURCE),
		from("from outside, to a neighbour", internetV6, secondV6, bpf.DatapathReasonPASS_UNKNOWN_SOURCE),
		from("from outside, to the world", internetV6, strangerV6, bpf.DatapathReasonPASS_UNKNOWN_SOURCE),
		from("its own, to the world", containerV6, internetV6, bpf.DatapathReasonPASS_NO_ROUTE),
		from("its own, to a subnet of nobody", containerV6, noLeaseV6, bpf.DatapathReasonPASS_NO_ROUTE),
		from("its own, to one not learned", containerV6, newbornV6, bpf.DatapathReasonPASS_LOCAL),
	}
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4, directV6} {
		t.Run(tun.name, func(t *testing.T) { tun.machine(t).checkAllV6(t, cases) })
	}
}

// TestIPv6NodeSources: what may leave by the overlay's device.
func TestIPv6NodeSources(t *testing.T) {
	from := func(name string, src netip.Addr) caseV6 {
		in := arrival{frame: etherType(vtep2, overlay.mac, 0x86dd, packetV6{src: src, dst: remoteV6}.bytes()), ifindex: overlay.ifindex}
		return caseV6{
			name: name, program: bpf.DatapathProgramPROGRAM_FROM_HOST, in: in,
			reason: bpf.DatapathReasonDROP_NODE_SOURCE, event: dropEvent{src: src, dst: remoteV6},
		}
	}
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4} {
		t.Run(tun.name, func(t *testing.T) {
			tun.machine(t).checkAllV6(t, []caseV6{
				from("another node's", remote3V6), from("from outside", internetV6), from("another node", peerV6),
			})
		})
	}
}

// TestIPv6NoAddress: a node with no IPv6 address is not at ::, neither as a sender nor as a receiver of tunnel packets.
func TestIPv6NoAddress(t *testing.T) {
	out := packetV6{src: unspecified, dst: netip.MustParseAddr("fd00:42:0:248::2")}.bytes()
	in := packetV6{src: peerV6, dst: unspecified, next: protocolIPv6, payload: packetV6{src: remoteV6, dst: containerV6}.bytes()}.bytes()
	check(t, bpf.DatapathProgramPROGRAM_FROM_HOST, packetCase{
		world: onlyIPv4, in: arrival{frame: etherType(vtep2, overlay.mac, 0x86dd, out), ifindex: overlay.ifindex},
		reason: bpf.DatapathReasonDROP_NODE_SOURCE, event: dropEvent{dst: netip.MustParseAddr("fd00:42:0:248::2")},
	})
	check(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, packetCase{
		world: onlyIPv4, in: arrival{frame: etherType(uplink.mac, routerMAC, 0x86dd, in), ifindex: uplink.ifindex},
		reason: bpf.DatapathReasonPASS_NOT_OURS,
	})
}

// TestIPv6PlainSources: what the underlay sends to our subnet as it is.
func TestIPv6PlainSources(t *testing.T) {
	from := func(name string, src, dst netip.Addr, reason bpf.DatapathReason) caseV6 {
		c := caseV6{
			name: name, program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, reason: reason,
			in: directV6.arrives(packetV6{src: src, dst: dst}.bytes()),
		}
		switch {
		case action(reason) == actShot:
			c.event = dropEvent{src: src, dst: dst}
		case action(reason) == actRedirect:
			c.out = etherType(c1MAC, bridgeMAC, 0x86dd, packetV6{src: src, dst: dst, hops: 63}.bytes())
		}
		return c
	}
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, directV6} {
		fromPeer := bpf.DatapathReasonDROP_SPOOFED_SOURCE
		if tun == directV6 {
			fromPeer = bpf.DatapathReasonFORWARD_DELIVERED
		}
		cases := []caseV6{
			from("a peer's container", remoteV6, containerV6, fromPeer),
			from("ours, to a container", secondV6, containerV6, bpf.DatapathReasonDROP_SPOOFED_SOURCE),
			from("the receiver's own", containerV6, containerV6, bpf.DatapathReasonDROP_SPOOFED_SOURCE),
			from("ours, to one not learned", secondV6, newbornV6, bpf.DatapathReasonDROP_SPOOFED_SOURCE),
			from("a peer's node", peerV6, containerV6, bpf.DatapathReasonPASS_NOT_OURS),
			from("a stranger", strangerV6, containerV6, bpf.DatapathReasonPASS_NOT_OURS),
			from("link-local", linkLocalV6, containerV6, bpf.DatapathReasonPASS_NOT_OURS),
			from("a peer's, to this node", remoteV6, nodeV6, bpf.DatapathReasonPASS_NOT_OURS),
			from("a peer's, to another", remoteV6, remote3V6, bpf.DatapathReasonPASS_NOT_OURS),
		}
		t.Run(tun.name, func(t *testing.T) { tun.machine(t).checkAllV6(t, cases) })
	}
}
