// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
)

func TestFromNetwork(t *testing.T) {
	checkAll(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, tables()[bpf.DatapathProgramPROGRAM_FROM_NETWORK])
}

// arrives is an IP packet on the uplink.
func arrives(ip []byte) arrival {
	return arrival{frame: ethernet(uplink.mac, routerMAC, ip), ifindex: uplink.ifindex}
}

// intoC1 is a frame as container c1 gets it.
func intoC1(ip []byte) []byte { return ethernet(c1MAC, bridgeMAC, ip) }

// intoStack is a frame as bpfnet0 gets it.
func intoStack(ip []byte) []byte { return ethernet(overlay.mac, routerMAC, ip) }

// tunnels are the peers that encapsulate, and what has to be known of their headers to cut them.
var tunnels = []struct {
	name      string
	node      netip.Addr
	container netip.Addr
	headerLen int // outer IP header to inner IP header
}{
	{"vxlan", node2, remote2, 50},
	{"ipip", node3, remote3, 20},
	{"udp", node4, remote4, 28},
}

// networkDelivers: each kind of packet, from each kind of peer, to a container.
func networkDelivers() []packetCase {
	var cases []packetCase
	add := func(name string, in, out []byte) {
		cases = append(cases, packetCase{
			name: name, in: arrives(in), reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(out),
		})
	}
	for _, tun := range tunnels {
		for kind, d := range carried(tun.container, c1, 1400) {
			add(tun.name+"/"+kind, from(tun.node, d.bytes()).bytes(), d.hop(1).bytes())
		}
		d := datagram{src: tun.container, dst: c1}
		in := from(tun.node, d.bytes())
		add(tun.name+"/padding travels on", join(in.bytes(), make([]byte, 6)), join(d.hop(1).bytes(), make([]byte, 6)))
		in.inner = join(d.bytes(), []byte{1, 2, 3})
		add(tun.name+"/bytes behind the inner packet", in.bytes(), join(d.hop(1).bytes(), []byte{1, 2, 3}))
		fromNode := datagram{src: tun.node, dst: c1}
		add(tun.name+"/from the peer's own address", from(tun.node, fromNode.bytes()).bytes(), fromNode.hop(1).bytes())
		subnetZero := datagram{src: tun.container.Prev().Prev(), dst: c1}
		add(tun.name+"/from the peer's VTEP", from(tun.node, subnetZero.bytes()).bytes(), subnetZero.hop(1).bytes())
		for _, ttl := range []uint8{0, 1, 255} {
			in := from(tun.node, d.bytes())
			in.ttl = ttl
			add(fmt.Sprintf("%s/outer TTL %d", tun.name, ttl), in.bytes(), d.hop(1).bytes())
		}
	}
	d := datagram{src: remote2, dst: c1}
	in := from(node2, d.bytes())
	in.checksum = true
	add("vxlan/UDP checksum", in.bytes(), d.hop(1).bytes())
	in.checksum, in.frameSrc = false, routerMAC
	add("vxlan/frame from any MAC", in.bytes(), d.hop(1).bytes())
	in.srcPort = 1
	add("vxlan/source port 1", in.bytes(), d.hop(1).bytes())
	for _, sub := range []struct{ node, src netip.Addr }{{node2, nested2}, {node3, nested3}, {node2, outside2}} {
		d := datagram{src: sub.src, dst: c1}
		add(fmt.Sprintf("from %s of %s", sub.src, sub.node), from(sub.node, d.bytes()).bytes(), d.hop(1).bytes())
	}
	return cases
}

// ecnAfter is figure 4 of RFC 6040 as the kernel reads it: [inner][outer], of Not-ECT 0, ECT(1) 1, ECT(0) 2 and CE 3.
var ecnAfter = [4][4]uint8{
	{0, 0, 0, ecnDrop},
	{1, 1, 1, 3},
	{2, 1, 2, 3},
	{3, 3, 3, 3},
}

const ecnDrop = 4

func networkECN() []packetCase {
	var cases []packetCase
	for _, tun := range tunnels {
		for inner := range uint8(4) {
			for outer := range uint8(4) {
				d := datagram{src: tun.container, dst: c1, tos: 0x28 | inner}
				in := from(tun.node, d.bytes())
				in.tos = 0xb8 | outer // the outer DSCP stays outside
				c := packetCase{name: fmt.Sprintf("%s/ECN inner %02b outer %02b", tun.name, inner, outer), in: arrives(in.bytes())}
				if ecnAfter[inner][outer] == ecnDrop {
					c.reason, c.event = bpf.DatapathReasonDROP_ECN, dropEvent{tun.node, d.src, d.dst}
				} else {
					c.reason = bpf.DatapathReasonFORWARD_DELIVERED
					c.out = intoC1(d.hop(1).withTOS(0x28 | ecnAfter[inner][outer]).bytes())
				}
				cases = append(cases, c)
			}
		}
	}
	return cases
}

// networkToHost: decapsulated, and then the stack's, with the hop still to be counted.
func networkToHost() []packetCase {
	var cases []packetCase
	for _, tun := range tunnels {
		d := datagram{src: tun.container, dst: c1}
		options := d
		options.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		congested := datagram{src: tun.container, dst: newborn, tos: 2}
		for kind, d := range map[string]datagram{
			"not learned":   {src: tun.container, dst: newborn},
			"own bridge":    {src: tun.container, dst: bridge},
			"own VTEP":      {src: tun.container, dst: vtepAddr},
			"TTL 1":         d.withTTL(1),
			"TTL 0":         d.withTTL(0),
			"inner options": options,
		} {
			cases = append(cases, packetCase{
				name: tun.name + "/to host, " + kind, in: arrives(from(tun.node, d.bytes()).bytes()),
				reason: bpf.DatapathReasonFORWARD_TO_HOST, out: intoStack(d.bytes()),
			})
		}
		in := from(tun.node, congested.bytes())
		in.tos = 3
		cases = append(cases, packetCase{
			name: tun.name + "/to host, congested", in: arrives(in.bytes()),
			reason: bpf.DatapathReasonFORWARD_TO_HOST, out: intoStack(congested.withTOS(3).bytes()),
		})
	}
	for _, dst := range []netip.Addr{internet, node1, remote3} {
		d := datagram{src: remote2, dst: dst}
		cases = append(cases, packetCase{
			name: "vxlan/to host, for " + dst.String(), in: arrives(from(node2, d.bytes()).bytes()),
			reason: bpf.DatapathReasonFORWARD_TO_HOST, out: intoStack(d.bytes()),
		})
	}
	return cases
}

// networkNotOurs: other people's packets, other people's tunnels.
func networkNotOurs() []packetCase {
	inner := datagram{src: remote2, dst: c1}.bytes()
	valid := arrives(from(node2, inner).bytes()).frame
	ipip := arrives(from(node3, datagram{src: remote3, dst: c1}.bytes()).bytes()).frame
	var cases []packetCase
	add := func(name string, frame []byte, reason bpf.DatapathReason) {
		cases = append(cases, packetCase{
			name: name, in: arrival{frame: frame, ifindex: uplink.ifindex}, reason: reason,
		})
	}
	add("ARP", etherType(broadcast, routerMAC, layers.EthernetTypeARP, pattern(46)), bpf.DatapathReasonPASS_PROTOCOL)
	add("IPv6", etherType(uplink.mac, routerMAC, layers.EthernetTypeIPv6, pattern(80)), bpf.DatapathReasonPASS_PROTOCOL)
	add("VLAN tag", join(valid[:12], []byte{0x81, 0, 0, 5}, valid[12:]), bpf.DatapathReasonPASS_PROTOCOL)
	add("another machine's frame", patched(valid, patch{0, vtep2[:]}), bpf.DatapathReasonPASS_NOT_ROUTED)
	add("another destination", resum(patched(valid, putAddr(atDst, node2))), bpf.DatapathReasonPASS_NOT_OURS)
	add("IP multicast", resum(patched(valid, putAddr(atDst, group))), bpf.DatapathReasonPASS_NOT_OURS)
	add("TCP", resum(patched(valid, put8(atProto, protocolTCP))), bpf.DatapathReasonPASS_NOT_OURS)
	add("GRE", resum(patched(valid, put8(atProto, 47))), bpf.DatapathReasonPASS_NOT_OURS)
	add("ICMP", arrives(datagram{src: node2, dst: node1, transport: &layers.ICMPv4{}}.bytes()).frame, bpf.DatapathReasonPASS_NOT_OURS)
	add("another port", patched(valid, put16(atUDPDst, 8473)), bpf.DatapathReasonPASS_NOT_OURS)
	add("port 0", patched(valid, put16(atUDPDst, 0)), bpf.DatapathReasonPASS_NOT_OURS)
	add("swapped port", patched(valid, put16(atUDPDst, 0x1821)), bpf.DatapathReasonPASS_NOT_OURS)
	add("UDP by its source port", patched(valid, put16(atUDP, 8472), put16(atUDPDst, 53)), bpf.DatapathReasonPASS_NOT_OURS)
	add("another VNI", patched(valid, put32(atVNI, 2<<8)), bpf.DatapathReasonPASS_NOT_OURS)
	add("VNI 0", patched(valid, put32(atVNI, 0)), bpf.DatapathReasonPASS_NOT_OURS)
	add("VNI with high bits", patched(valid, put32(atVNI, 0x80000100)), bpf.DatapathReasonPASS_NOT_OURS)
	for bit := range 8 {
		add(fmt.Sprintf("reserved bit %d behind the VNI", bit), patched(valid, put8(atVNI+3, 1<<bit)), bpf.DatapathReasonPASS_NOT_OURS)
	}
	for bit := range 32 {
		flags := uint32(0x08000000) ^ 1<<bit
		add(fmt.Sprintf("VXLAN flags %08x", flags), patched(valid, put32(atVXLAN, flags)), bpf.DatapathReasonPASS_NOT_OURS)
	}
	add("ipip to another network", patched(ipip, putAddr(atIP+ipv4Len+16, internet)), bpf.DatapathReasonPASS_NOT_OURS)
	add("ipip to a peer's subnet", patched(ipip, putAddr(atIP+ipv4Len+16, remote2)), bpf.DatapathReasonPASS_NOT_OURS)
	add("IPv6 in IPv4", resum(patched(ipip, put8(atProto, 41))), bpf.DatapathReasonPASS_NOT_OURS)
	for _, tun := range tunnels {
		in := from(tun.node, datagram{src: tun.container, dst: c1}.bytes())
		in.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		if tun.name == "ipip" {
			add("ipip/outer options", arrives(in.bytes()).frame, bpf.DatapathReasonPASS_OPTIONS)
		}
		in.dstPort++
		add(tun.name+"/outer options, another port", arrives(in.bytes()).frame, bpf.DatapathReasonPASS_OPTIONS)
		in.dstPort--
		in.options = nil
		for kind, fragment := range map[string]struct {
			flags  layers.IPv4Flag
			offset uint16
		}{
			"first": {layers.IPv4MoreFragments, 0}, "middle": {layers.IPv4MoreFragments, 100}, "last": {0, 100}, "offset 1": {0, 1},
		} {
			in.flags, in.offset = fragment.flags, fragment.offset
			add(tun.name+"/outer fragment, "+kind, arrives(in.bytes()).frame, bpf.DatapathReasonPASS_OUTER_FRAGMENT)
		}
	}
	return cases
}

// networkMalformed: lengths and sums of the outer header that are wrong. The kernel's to count.
func networkMalformed() []packetCase {
	var cases []packetCase
	for _, tun := range tunnels {
		valid := arrives(from(tun.node, datagram{src: tun.container, dst: c1}.bytes()).bytes()).frame
		length := uint16(len(valid) - etherLen)
		add := func(name string, frame []byte) {
			cases = append(cases, packetCase{
				name: tun.name + "/" + name, in: arrival{frame: frame, ifindex: uplink.ifindex}, reason: bpf.DatapathReasonPASS_MALFORMED,
			})
		}
		add("version 6", resum(patched(valid, put8(atIP, 0x65))))
		add("header length 16", resum(patched(valid, put8(atIP, 0x44))))
		add("header length over total length", resum(patched(valid, put8(atIP, 0x46), put16(atLen, 23))))
		add("total length 19", resum(patched(valid, put16(atLen, 19))))
		add("total length long", resum(patched(valid, put16(atLen, length+1))))
		add("checksum 0", patched(valid, put16(atCheck, 0)))
		add("checksum off by one", patched(valid, put16(atCheck, 1+uint16(valid[atCheck])<<8+uint16(valid[atCheck+1]))))
		add("a bit of the source flipped", patched(valid, put8(atSrc+3, valid[atSrc+3]^1)))
		add("TTL changed", patched(valid, put8(atTTL, valid[atTTL]-1)))
		if tun.name == "ipip" {
			continue
		}
	}
	return cases
}

// networkForgiven: tunnel packets of a peer that no peer sends, and that the kernel's vxlan device
// would take from anybody.
func networkForgiven() []packetCase {
	var cases []packetCase
	add := func(node netip.Addr, name string, frame []byte) {
		cases = append(cases, packetCase{
			name: name, in: arrival{frame: frame, ifindex: uplink.ifindex},
			reason: bpf.DatapathReasonDROP_TUNNEL_MALFORMED, event: dropEvent{outer: node},
		})
	}
	for _, tun := range tunnels {
		packet := from(tun.node, datagram{src: tun.container, dst: c1}.bytes())
		valid := arrives(packet.bytes()).frame
		length := uint16(len(valid) - etherLen)
		add(tun.node, tun.name+"/Ethernet broadcast", patched(valid, patch{0, broadcast[:]}))
		add(tun.node, tun.name+"/Ethernet multicast", patched(valid, patch{0, multicast[:]}))
		if tun.name == "ipip" {
			continue // there is no such device for it
		}
		first := patched(valid, put8(atIP+6, 0x20)) // more fragments
		add(tun.node, tun.name+"/first fragment without the inner header",
			resum(patched(first, put16(atLen, uint16(tun.headerLen)+ipv4Len-4))))
		add(tun.node, tun.name+"/first fragment, headers in its padding", resum(patched(first, put16(atLen, ipv4Len+8))))
		add(tun.node, tun.name+"/total length short", resum(patched(valid, put16(atLen, length-1))))
		add(tun.node, tun.name+"/UDP length short", patched(valid, put16(atUDPLen, length-ipv4Len-1)))
		add(tun.node, tun.name+"/UDP length long", patched(valid, put16(atUDPLen, length-ipv4Len+1)))
		add(tun.node, tun.name+"/UDP length 0", patched(valid, put16(atUDPLen, 0)))
		packet.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		add(tun.node, tun.name+"/outer options", arrives(packet.bytes()).frame)
	}
	return cases
}

// networkFragments: the first fragment of a forged tunnel packet is refused as the whole would be.
func networkFragments() []packetCase {
	var cases []packetCase
	for _, tun := range tunnels {
		first := func(outer netip.Addr, d datagram) arrival {
			t := from(tun.node, d.bytes())
			t.src, t.flags = outer, layers.IPv4MoreFragments
			return arrives(t.bytes())
		}
		forged := datagram{src: internet, dst: c1}
		mine := datagram{src: tun.container, dst: c1}
		cases = append(cases, packetCase{
			name: tun.name + "/first fragment, spoofed", in: first(tun.node, forged),
			reason: bpf.DatapathReasonDROP_SPOOFED_SOURCE, event: dropEvent{tun.node, forged.src, forged.dst},
		}, packetCase{
			name: tun.name + "/first fragment, unknown host", in: first(stranger, mine),
			reason: bpf.DatapathReasonDROP_UNKNOWN_HOST, event: dropEvent{stranger, mine.src, mine.dst},
		})
	}
	return cases
}

// networkInner: what a tunnel packet of ours may have inside.
func networkInner() []packetCase {
	var cases []packetCase
	for _, tun := range tunnels {
		d := datagram{src: tun.container, dst: c1}
		valid := arrives(from(tun.node, d.bytes()).bytes()).frame
		inner := atIP + tun.headerLen
		length := uint16(len(valid) - inner)
		for kind, p := range map[string]patch{
			"version 6":          put8(inner, 0x65),
			"header length 16":   put8(inner, 0x44),
			"header too long":    {inner, []byte{0x46, 0, 0, 23}},
			"total length 0":     put16(inner+2, 0),
			"total length 19":    put16(inner+2, 19),
			"total length long":  put16(inner+2, length+1),
			"total length 65535": put16(inner+2, 65535),
		} {
			cases = append(cases, packetCase{
				name: tun.name + "/inner " + kind, in: arrival{frame: resumAt(patched(valid, p), inner), ifindex: uplink.ifindex},
				reason: bpf.DatapathReasonDROP_INNER_MALFORMED, event: dropEvent{outer: tun.node},
			})
		}
		for kind, p := range map[string]patch{
			"checksum 0":        put16(inner+10, 0),
			"TTL changed":       put8(inner+8, valid[inner+8]-1),
			"a bit of the TOS":  put8(inner+1, valid[inner+1]^1),
			"of an address too": put8(inner+19, valid[inner+19]^1),
		} {
			cases = append(cases, packetCase{
				name: tun.name + "/inner " + kind, in: arrival{frame: patched(valid, p), ifindex: uplink.ifindex},
				reason: bpf.DatapathReasonDROP_INNER_MALFORMED, event: dropEvent{outer: tun.node},
			})
		}
	}
	valid := arrives(from(node2, datagram{src: remote2, dst: c1}.bytes()).bytes()).frame
	for kind, p := range map[string]patch{
		"ARP":             put16(atFrame+12, 0x806),
		"IPv6":            put16(atFrame+12, 0x86dd),
		"VLAN":            put16(atFrame+12, 0x8100),
		"another MAC":     {atFrame, c1MAC[:]},
		"broadcast":       {atFrame, broadcast[:]},
		"multicast":       {atFrame, multicast[:]},
		"last byte of it": put8(atFrame+5, overlay.mac[5]^1),
	} {
		frame := patched(valid, p)
		cases = append(cases,
			packetCase{
				name: "vxlan/frame for the kernel, " + kind, in: arrival{frame: frame, ifindex: uplink.ifindex},
				reason: bpf.DatapathReasonPASS_INNER_NOT_ROUTED,
			},
			packetCase{
				name: "vxlan/frame for the kernel of a stranger, " + kind, in: arrival{frame: resum(patched(frame, putAddr(atSrc, stranger))), ifindex: uplink.ifindex},
				reason: bpf.DatapathReasonDROP_UNKNOWN_HOST, event: dropEvent{outer: stranger},
			})
	}
	return cases
}

// networkDrops: tunnel packets of our network that must not get in.
func networkDrops() []packetCase {
	var cases []packetCase
	for _, tun := range tunnels {
		add := func(name string, node netip.Addr, d datagram, reason bpf.DatapathReason) {
			in := from(tun.node, d.bytes())
			in.src = node
			cases = append(cases, packetCase{
				name: tun.name + "/" + name, in: arrives(in.bytes()), reason: reason, event: dropEvent{node, d.src, d.dst},
			})
		}
		d := datagram{src: tun.container, dst: c1}
		add("from a stranger", stranger, d, bpf.DatapathReasonDROP_UNKNOWN_HOST)
		add("from a stranger in its own name", stranger, datagram{src: stranger, dst: c1}, bpf.DatapathReasonDROP_UNKNOWN_HOST)
		add("from 0.0.0.0", zeroAddr, d, bpf.DatapathReasonDROP_UNKNOWN_HOST)
		add("from ourselves", node1, d, bpf.DatapathReasonDROP_UNKNOWN_HOST)
		add("from ourselves, of our subnet", node1, datagram{src: c2, dst: c1}, bpf.DatapathReasonDROP_UNKNOWN_HOST)
		add("from another peer", node5, d, bpf.DatapathReasonDROP_SPOOFED_SOURCE)
		for kind, src := range map[string]netip.Addr{
			"of another peer's subnet": remote5, "of our subnet": c2, "of our bridge": bridge, "of the receiver": c1,
			"of another node": node5, "of this node": node1, "of nobody": noLease, "of the internet": internet,
			"0.0.0.0": zeroAddr, "of a number hosts does not have": nowhere,
		} {
			add("source "+kind, tun.node, datagram{src: src, dst: c1}, bpf.DatapathReasonDROP_SPOOFED_SOURCE)
			add("source "+kind+", TTL 0, to host", tun.node, datagram{src: src, dst: newborn}.withTTL(0), bpf.DatapathReasonDROP_SPOOFED_SOURCE)
		}
		in := superpacket(arrives(from(tun.node, d.bytes()).bytes()), 60)
		super := packetCase{
			name: tun.name + "/superpacket without a type", in: in,
			reason: bpf.DatapathReasonDROP_DECAPSULATE, event: dropEvent{tun.node, d.src, d.dst},
		}
		if tun.name == "vxlan" { // of UDP, as all datagrams here: before it comes to the type
			super.reason = bpf.DatapathReasonPASS_UDP_SUPERPACKET
		}
		cases = append(cases, super)
	}
	return cases
}
