// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// tables are the cases of each program.
func tables() map[bpf.DatapathProgram][]packetCase {
	return map[bpf.DatapathProgram][]packetCase{
		bpf.DatapathProgramPROGRAM_FROM_CONTAINER: concat(containerToRemote(), containerPasses(), containerLocal(),
			containerSuperpackets(), containerSecond(), containerNAT()),
		bpf.DatapathProgramPROGRAM_FROM_HOST:    concat(hostToRemote(), hostOthers()),
		bpf.DatapathProgramPROGRAM_FROM_OVERLAY: overlayCases(),
		bpf.DatapathProgramPROGRAM_FROM_VETH:    concat(vethToRemote(), vethOthers()),
		bpf.DatapathProgramPROGRAM_FROM_NETWORK: concat(networkDelivers(), networkECN(), networkToHost(),
			networkNotOurs(), networkMalformed(), networkForgiven(), networkFragments(), networkInner(), networkDrops(), networkDirect(), networkWorlds(), networkNAT(),
			networkUnwrapped(), networkUDPSums()),
		bpf.DatapathProgramPROGRAM_FROM_WIRE: wireCases(),
	}
}

func TestFromContainer(t *testing.T) {
	checkAll(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, tables()[bpf.DatapathProgramPROGRAM_FROM_CONTAINER])
}

func concat(parts ...[]packetCase) []packetCase {
	var all []packetCase
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// remotes are a container behind each peer, and the largest packet that fits the way to it.
var remotes = []struct {
	name      string
	node      netip.Addr
	container netip.Addr
	mtu       int
}{
	{"vxlan", node2, remote2, 1450},
	{"ipip", node3, remote3, 1480},
	{"udp", node4, remote4, 1472},
	{"host-gw", node5, remote5, 1500},
	{"ipip with DF and TTL", node6, remote6, 1480},
	{"vxlan with DF and DSCP", node7, remote7, 1400},
	{"vxlan by the trie", node2, outside2, 1450},
	{"vxlan by the trie, split slot", node2, nested2, 1450},
	{"ipip by the longer prefix", node3, nested3, 1480},
}

// fromC1 is what container c1 sends by its gateway.
func fromC1(d datagram) arrival { return c1Sends(bridgeMAC, d.bytes()) }

func c1Sends(dst topology.MAC, ip []byte) arrival {
	return arrival{frame: ethernet(dst, c1MAC, ip), ifindex: link1.ifindex}
}

// sent is a frame on its way to a peer: with the outer header, except to host-gw.
func sent(eth []byte, peer netip.Addr, inner []byte) []byte {
	if peer == node5 {
		return join(eth[:etherLen], inner)
	}
	return join(eth[:etherLen], to(peer, inner).bytes())
}

func sentReason(peer netip.Addr) bpf.DatapathReason {
	if peer == node5 {
		return bpf.DatapathReasonFORWARD_ROUTED
	}
	return bpf.DatapathReasonFORWARD_ENCAPSULATED
}

// handedOn is a container's frame behind from_container: in udp networks it goes by bpfnet0 first.
func handedOn(eth []byte, peer netip.Addr, inner []byte) []byte {
	if peer == node4 {
		return join(eth[:etherLen], inner)
	}
	return sent(eth, peer, inner)
}

func handedOnReason(peer netip.Addr) bpf.DatapathReason {
	if peer == node4 {
		return bpf.DatapathReasonFORWARD_TO_OVERLAY
	}
	return sentReason(peer)
}

// carried are packets of all kinds that are carried on.
func carried(src, dst netip.Addr, mtu int) map[string]datagram {
	d := datagram{src: src, dst: dst, id: 0x1234}
	fragment := func(offset uint16, flags layers.IPv4Flag, body int) datagram {
		f := d
		f.offset, f.flags, f.payload = offset, flags, pattern(body)
		return f
	}
	all := map[string]datagram{
		"udp":             d,
		"empty udp":       {src: src, dst: dst, payload: []byte{}},
		"tcp":             {src: src, dst: dst, transport: &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1, ACK: true}},
		"tcp syn":         {src: src, dst: dst, transport: tcpSYN(), payload: []byte{}},
		"icmp":            {src: src, dst: dst, transport: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 7, Seq: 1}},
		"sctp":            {src: src, dst: dst, transport: &layers.SCTP{SrcPort: 40000, DstPort: 80, VerificationTag: 9}},
		"DF":              {src: src, dst: dst, flags: layers.IPv4DontFragment},
		"evil bit":        {src: src, dst: dst, flags: layers.IPv4EvilBit},
		"TTL 255":         d.withTTL(255),
		"TTL 2":           d.withTTL(2),
		"first fragment":  fragment(0, layers.IPv4MoreFragments, 64),
		"middle fragment": fragment(9, layers.IPv4MoreFragments, 64),
		"last fragment":   fragment(17, 0, 5),
		"tiny fragment":   fragment(1, 0, 1),
		"fits exactly":    d.sized(mtu),
	}
	for tos := range 4 {
		all[fmt.Sprintf("ECN %02b", tos)] = d.withTOS(uint8(tos))
		all[fmt.Sprintf("DSCP 46, ECN %02b", tos)] = d.withTOS(0xb8 | uint8(tos))
	}
	return all
}

func tcpSYN() *layers.TCP {
	return &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1, SYN: true, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}},
	}}
}

// containerToRemote: each kind of packet by each encapsulation.
func containerToRemote() []packetCase {
	var cases []packetCase
	for _, r := range remotes {
		for kind, d := range carried(c1, r.container, r.mtu) {
			in := fromC1(d)
			cases = append(cases, packetCase{
				name:   r.name + "/" + kind,
				in:     in,
				reason: handedOnReason(r.node),
				out:    handedOn(in.frame, r.node, d.hop(1).bytes()),
			})
		}
		d := datagram{src: c1, dst: r.container}
		notSent := func(kind string, d datagram, reason bpf.DatapathReason) {
			cases = append(cases, packetCase{name: r.name + "/" + kind, in: fromC1(d), reason: reason})
		}
		big := d.sized(r.mtu + 1)
		notSent("a byte too big", big, bpf.DatapathReasonPASS_TOO_BIG)
		big.flags = layers.IPv4DontFragment
		notSent("a byte too big, DF", big, bpf.DatapathReasonPASS_TOO_BIG)
		notSent("TTL 1", d.withTTL(1), bpf.DatapathReasonPASS_TTL)
		notSent("TTL 0", d.withTTL(0), bpf.DatapathReasonPASS_TTL)
	}
	return cases
}

// containerPasses: what is not for the datapath, in the order it looks.
func containerPasses() []packetCase {
	d := datagram{src: c1, dst: remote2}
	valid := fromC1(d).frame
	at := func(frame []byte) arrival { return arrival{frame: frame, ifindex: link1.ifindex} }
	options := d
	options.options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}, {OptionType: 0}}
	tagged := join(valid[:12], []byte{0x81, 0, 0, 5}, valid[12:])
	arp := etherType(broadcast, c1MAC, layers.EthernetTypeARP, pattern(28))
	ipv6 := etherType(bridgeMAC, c1MAC, layers.EthernetTypeIPv6, pattern(80))
	length := uint16(len(valid) - etherLen)
	return []packetCase{
		{name: "ARP", in: at(arp), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "IPv6", in: at(ipv6), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "VLAN tag", in: at(tagged), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "802.3 length", in: at(patched(valid, put16(12, 100))), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "version 6 in IPv4", in: at(resum(patched(valid, put8(atIP, 0x65)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "version 0", in: at(resum(patched(valid, put8(atIP, 0x05)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "header length 16", in: at(resum(patched(valid, put8(atIP, 0x44)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "header length 0", in: at(resum(patched(valid, put8(atIP, 0x40)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "total length 0", in: at(resum(patched(valid, put16(atLen, 0)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "total length 19", in: at(resum(patched(valid, put16(atLen, 19)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "total length short", in: at(resum(patched(valid, put16(atLen, length-1)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "total length long", in: at(resum(patched(valid, put16(atLen, length+1)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "total length 65535", in: at(resum(patched(valid, put16(atLen, 65535)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "padded", in: at(join(valid, []byte{0})), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "checksum 0", in: at(patched(valid, put16(atCheck, 0))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "a bit of the source flipped", in: at(patched(valid, put8(atSrc+3, valid[atSrc+3]^1))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "options", in: fromC1(options), reason: bpf.DatapathReasonPASS_OPTIONS},
		{name: "60 bytes of header in 20", in: at(patched(valid, put8(atIP, 0x4f))), reason: bpf.DatapathReasonPASS_OPTIONS},
		{name: "zeros", in: at(make([]byte, 60)), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "source not learned", in: fromC1(datagram{src: newborn, dst: remote2}), reason: bpf.DatapathReasonPASS_UNKNOWN_SOURCE},
		{name: "source not learned, to its neighbour", in: fromC1(datagram{src: newborn, dst: c2}), reason: bpf.DatapathReasonPASS_UNKNOWN_SOURCE},
		{name: "source outside, to the outside", in: fromC1(datagram{src: internet, dst: internet}), reason: bpf.DatapathReasonPASS_UNKNOWN_SOURCE},
		{name: "source outside, to its neighbour", in: fromC1(datagram{src: internet, dst: c2}), reason: bpf.DatapathReasonPASS_UNKNOWN_SOURCE},
		foreign("source of a peer", remote2, remote3),
		foreign("source of a peer, to its neighbour", remote2, c2),
		foreign("source of a peer, to the outside", remote2, internet),
		foreign("source of a host-gw peer", remote5, remote2),
		foreign("source of the node", node1, remote2),
		foreign("source of no lease", noLease, remote5),
		foreign("source outside", internet, remote5),
		{name: "source 0.0.0.0", in: fromC1(datagram{src: zeroAddr, dst: lastAddr}), reason: bpf.DatapathReasonPASS_UNKNOWN_SOURCE},
		{
			name: "source of another container", in: fromC1(datagram{src: c2, dst: remote2}),
			reason: bpf.DatapathReasonDROP_CONTAINER_SOURCE, event: dropEvent{src: c2, dst: remote2},
		},
		{
			name: "source of another container, TTL 0", in: fromC1(datagram{src: c2, dst: internet}.withTTL(0)),
			reason: bpf.DatapathReasonDROP_CONTAINER_SOURCE, event: dropEvent{src: c2, dst: internet},
		},
		{name: "not to the gateway", in: c1Sends(routerMAC, d.bytes()), reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "Ethernet broadcast", in: c1Sends(broadcast, d.bytes()), reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "IP broadcast", in: c1Sends(broadcast, datagram{src: c1, dst: everyone}.bytes()), reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "IP multicast", in: c1Sends(multicast, datagram{src: c1, dst: group}.bytes()), reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "multicast by the gateway", in: fromC1(datagram{src: c1, dst: group}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "internet", in: fromC1(datagram{src: c1, dst: internet}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "a node", in: fromC1(datagram{src: c1, dst: node2}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "no lease", in: fromC1(datagram{src: c1, dst: noLease}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "no such host", in: fromC1(datagram{src: c1, dst: nowhere}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "own bridge", in: fromC1(datagram{src: c1, dst: bridge}), reason: bpf.DatapathReasonPASS_LOCAL},
		{name: "own VTEP", in: fromC1(datagram{src: c1, dst: vtepAddr}), reason: bpf.DatapathReasonPASS_LOCAL},
		{name: "not learned", in: fromC1(datagram{src: c1, dst: newborn}), reason: bpf.DatapathReasonPASS_LOCAL},
	}
}

// containerLocal: from one container to another of this node.
func containerLocal() []packetCase {
	d := datagram{src: c1, dst: c2}
	delivered := func(d datagram) []byte { return ethernet(c2MAC, bridgeMAC, d.hop(1).bytes()) }
	wrong := patched(fromC1(d).frame, put16(atCheck, 0xbad0))
	return []packetCase{
		{name: "local/bridged", in: c1Sends(c2MAC, d.bytes()), reason: bpf.DatapathReasonFORWARD_LOCAL},
		{name: "local/bridged, TTL 1", in: c1Sends(c2MAC, d.withTTL(1).bytes()), reason: bpf.DatapathReasonFORWARD_LOCAL},
		{name: "local/routed", in: fromC1(d), reason: bpf.DatapathReasonFORWARD_LOCAL, out: delivered(d)},
		{name: "local/routed, TTL 2", in: fromC1(d.withTTL(2)), reason: bpf.DatapathReasonFORWARD_LOCAL, out: delivered(d.withTTL(2))},
		{name: "local/routed, TTL 1", in: fromC1(d.withTTL(1)), reason: bpf.DatapathReasonPASS_TTL},
		{name: "local/routed, TTL 0", in: fromC1(d.withTTL(0)), reason: bpf.DatapathReasonPASS_TTL},
		{name: "local/another MAC", in: c1Sends(routerMAC, d.bytes()), reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "local/broadcast MAC", in: c1Sends(broadcast, d.bytes()), reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "local/larger than any path", in: fromC1(d.sized(3000)), reason: bpf.DatapathReasonFORWARD_LOCAL, out: delivered(d.sized(3000))},
		{name: "local/CE", in: fromC1(d.withTOS(3)), reason: bpf.DatapathReasonFORWARD_LOCAL, out: delivered(d.withTOS(3))},
		{name: "local/superpacket", in: superpacket(fromC1(d.sized(3000)), 1400), reason: bpf.DatapathReasonFORWARD_LOCAL, out: delivered(d.sized(3000))},
		{name: "local/wrong checksum", in: arrival{frame: wrong, ifindex: link1.ifindex}, reason: bpf.DatapathReasonPASS_MALFORMED},
		{
			name: "local/spoofed", in: arrival{frame: ethernet(c1MAC, c2MAC, d.bytes()), ifindex: link2.ifindex},
			reason: bpf.DatapathReasonDROP_CONTAINER_SOURCE, event: dropEvent{src: c1, dst: c2},
		},
	}
}

func superpacket(a arrival, gsoSize uint16) arrival {
	a.gsoSize = gsoSize
	return a
}

// containerSuperpackets: each segment has to fit. A test run gives a packet a gso_size but no
// gso_type, with which the kernel encapsulates none: superpacket_test.go has the real ones.
func containerSuperpackets() []packetCase {
	tcp := func(dst netip.Addr) datagram {
		return datagram{
			src: c1, dst: dst, payload: pattern(3000),
			transport: &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1, ACK: true, Options: []layers.TCPOption{
				{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}, {OptionType: 1}, {OptionType: 1},
			}},
		}
	}
	udp := datagram{src: c1, dst: remote5, payload: pattern(3000)}
	sctp := datagram{src: c1, dst: remote5, payload: pattern(3000), transport: &layers.SCTP{SrcPort: 1, DstPort: 2}}
	fragment := datagram{src: c1, dst: remote5, payload: pattern(3000), flags: layers.IPv4MoreFragments}
	routed := func(name string, d datagram, gsoSize uint16) packetCase {
		in := superpacket(fromC1(d), gsoSize)
		return packetCase{
			name: "superpacket/" + name, in: in,
			reason: bpf.DatapathReasonFORWARD_ROUTED, out: sent(in.frame, node5, d.hop(1).bytes()),
		}
	}
	passed := func(name string, d datagram, gsoSize uint16, reason bpf.DatapathReason) packetCase {
		return packetCase{name: "superpacket/" + name, in: superpacket(fromC1(d), gsoSize), reason: reason}
	}
	toOverlay := packetCase{
		name: "superpacket/udp, segments fit", in: superpacket(fromC1(tcp(remote4)), 1472-52),
		reason: bpf.DatapathReasonFORWARD_TO_OVERLAY, out: fromC1(tcp(remote4).hop(1)).frame,
	}
	return []packetCase{
		routed("TCP, segments fit", tcp(remote5), 1500-52),
		passed("TCP, a byte too big", tcp(remote5), 1500-51, bpf.DatapathReasonPASS_TOO_BIG),
		routed("UDP, segments fit", udp, 1500-28),
		passed("UDP, a byte too big", udp, 1500-27, bpf.DatapathReasonPASS_TOO_BIG),
		routed("SCTP, segments fit", sctp, 1500-28),
		passed("SCTP, a byte too big", sctp, 1500-27, bpf.DatapathReasonPASS_TOO_BIG),
		routed("fragment", fragment, 1500-20),
		passed("fragment, a byte too big", fragment, 1500-19, bpf.DatapathReasonPASS_TOO_BIG),
		passed("vxlan, a byte too big", tcp(remote2), 1450-51, bpf.DatapathReasonPASS_TOO_BIG),
		passed("ipip, a byte too big", tcp(remote3), 1480-51, bpf.DatapathReasonPASS_TOO_BIG),
		passed("udp, a byte too big", tcp(remote4), 1472-51, bpf.DatapathReasonPASS_TOO_BIG),
		passed("vxlan, no type", tcp(remote2), 1450-52, bpf.DatapathReasonPASS_NOT_ENCAPSULABLE),
		passed("ipip, no type", tcp(remote3), 1480-52, bpf.DatapathReasonPASS_NOT_ENCAPSULABLE),
		toOverlay,
		passed("vxlan, by frags", datagram{src: c1, dst: remote2, payload: pattern(3000), transport: &layers.SCTP{}},
			0xffff, bpf.DatapathReasonPASS_NOT_ENCAPSULABLE),
		passed("host-gw, by frags", sctp, 0xffff, bpf.DatapathReasonPASS_TOO_BIG),
	}
}

// foreign is a packet from an address that no container of this node can have.
func foreign(name string, src, dst netip.Addr) packetCase {
	return packetCase{name: name, in: fromC1(datagram{src: src, dst: dst}),
		reason: bpf.DatapathReasonDROP_CONTAINER_SOURCE, event: dropEvent{src: src, dst: dst}}
}

// containerSecond: another network's number, port and VNI, and routes by the trie alone.
func containerSecond() []packetCase {
	d := datagram{src: c1, dst: remote2}
	in := fromC1(d)
	out := to(node2, d.hop(1).bytes())
	out.dstPort, out.vni = 4789, 0xabcdef
	return []packetCase{
		{
			name: "network 7", world: second, in: in, reason: bpf.DatapathReasonFORWARD_ENCAPSULATED,
			out: ethernet(bridgeMAC, c1MAC, out.bytes()),
		},
		{
			name: "network 7/local", world: second, in: fromC1(datagram{src: c1, dst: c2}), reason: bpf.DatapathReasonFORWARD_LOCAL,
			out: ethernet(c2MAC, bridgeMAC, datagram{src: c1, dst: c2}.hop(1).bytes()),
		},
		{
			name: "network 7/container of network 0 alone", world: second, in: fromC1(datagram{src: newborn, dst: remote2}),
			reason: bpf.DatapathReasonPASS_UNKNOWN_SOURCE,
		},
		{
			name: "network 7/route of network 0 alone", world: second, in: fromC1(datagram{src: c1, dst: noLease}),
			reason: bpf.DatapathReasonPASS_NO_ROUTE,
		},
	}
}
