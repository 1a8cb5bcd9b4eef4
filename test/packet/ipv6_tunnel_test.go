// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestIPv6DecapsulateECN holds each program to ecnAfter. The outer DSCP stays outside.
func TestIPv6DecapsulateECN(t *testing.T) {
	for _, tun := range tunnelsV6 {
		t.Run(tun.name, func(t *testing.T) {
			var cases []caseV6
			for inner := range uint8(4) {
				for outer := range uint8(4) {
					in := tun.datagram(tun.remote(), tun.container(), 64, 0xb8|inner)
					if tun.inner == 6 {
						copy(in[1:], []byte{in[1] | 0xa, 0xbc, 0xde}) // a flow label, which is not to change
					}
					c := caseV6{
						name: fmt.Sprintf("inner %02b outer %02b", inner, outer), program: bpf.DatapathProgramPROGRAM_FROM_NETWORK,
						in: tun.arrives(tun.wrap(tun.node, 0x54|outer, in)), reason: bpf.DatapathReasonFORWARD_DELIVERED,
					}
					if ecnAfter[inner][outer] == ecnDrop {
						c.reason, c.event = bpf.DatapathReasonDROP_ECN, dropEvent{tun.node, tun.remote(), tun.container()}
						cases = append(cases, c)
						continue
					}
					out := tun.datagram(tun.remote(), tun.container(), 63, 0xb8|ecnAfter[inner][outer])
					if tun.inner == 6 {
						copy(out[1:], []byte{out[1] | 0xa, 0xbc, 0xde})
					}
					c.out = etherType(c1MAC, bridgeMAC, tun.etherType(), out)
					cases = append(cases, c)
				}
			}
			tun.machine(t).checkAllV6(t, cases)
		})
	}
}

// sent is what goes to the first peer, what is free in it zero.
func (tun tunnelV6) sent(class, hops uint8, inner []byte) []byte {
	length := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	outer := packetV6{src: nodeV6, dst: tun.node, class: class, hops: hops, next: protocolIPv6, payload: inner}
	switch tun.name {
	case "vxlan":
		frame := etherType(vtep2, overlay.mac, 0x86dd, inner)
		outer.hops, outer.next = 64, protocolUDP
		outer.payload = join([]byte{0, 0, 0x21, 0x18}, length(udpLen+vxlanLen+len(frame)), []byte{0, 0, 8, 0, 0, 0, 0, 0, 1, 0}, frame)
	case "4in6":
		outer.next = protocolIPIP
	case "6in4":
		ip := ipHeader(join([]byte{0x45, class}, length(ipv4Len+len(inner)), []byte{0, 0, 0x40, 0, hops, protocolIPv6, 0, 0}, node1.AsSlice(), node2.AsSlice()))
		ip.setChecksum()
		return etherType(bridgeMAC, c1MAC, layers.EthernetTypeIPv4, join(ip, inner))
	}
	return etherType(bridgeMAC, c1MAC, layers.EthernetTypeIPv6, outer.bytes())
}

// TestIPv6Encapsulate compares every byte of what a container's packet becomes: lengths, hop limit, ECN (CE goes
// out as ECT(0), as the kernel's tunnels do it).
func TestIPv6Encapsulate(t *testing.T) {
	for _, tun := range tunnelsV6 {
		var cases []caseV6
		for ecn := range uint8(4) {
			for _, hops := range []uint8{2, 64, 255} {
				class := ecn
				if ecn == 3 {
					class = 2
				}
				cases = append(cases, caseV6{
					name: fmt.Sprintf("%s/ECN %02b, hop limit %d", tun.name, ecn, hops), program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER,
					in:     fromContainerV6(tun.datagram(tun.container(), tun.remote(), hops, 0x28|ecn)),
					reason: bpf.DatapathReasonFORWARD_ENCAPSULATED,
					out:    tun.sent(class, hops-1, tun.datagram(tun.container(), tun.remote(), hops-1, 0x28|ecn)),
				})
			}
		}
		tun.machine(t).checkAllV6(t, cases)
	}
}

// TestIPv6TooBig: the largest packet of a path, and one byte more.
func TestIPv6TooBig(t *testing.T) {
	sized := func(size int, hops uint8) []byte {
		p := packetV6{src: containerV6, dst: remoteV6, hops: hops}
		ip := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolUDP, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
		udp := &layers.UDP{SrcPort: 40000, DstPort: 53}
		_ = udp.SetNetworkLayerForChecksum(ip)
		return build(ip, udp, gopacket.Payload(pattern(size-ipv6Len-udpLen)))
	}
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4, directV6} {
		most, reason := 1430, bpf.DatapathReasonFORWARD_ENCAPSULATED
		if tun == directV6 {
			most, reason = 1500, bpf.DatapathReasonFORWARD_ROUTED
		}
		out := etherType(bridgeMAC, c1MAC, layers.EthernetTypeIPv6, sized(most, 63))
		if tun != directV6 {
			out = tun.sent(0, 63, sized(most, 63))
		}
		program := bpf.DatapathProgramPROGRAM_FROM_CONTAINER
		tun.machine(t).checkAllV6(t, []caseV6{
			{name: tun.name + "/fits", program: program, in: fromContainerV6(sized(most, 64)), reason: reason, out: out},
			{name: tun.name + "/a byte too big", program: program, in: fromContainerV6(sized(most+1, 64)), reason: bpf.DatapathReasonPASS_TOO_BIG},
		})
	}
}

// TestIPv6Superpackets: each segment has to fit. With gso_size alone the kernel encapsulates none.
func TestIPv6Superpackets(t *testing.T) {
	const options = 12 // a timestamp
	tcp := func(hops uint8) []byte {
		header := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, (20 + options) / 4 << 4, 0x10, 1, 0, 0, 0, 0, 0}
		return packetV6{src: containerV6, dst: remoteV6, hops: hops, next: 6, payload: join(header, make([]byte, options), pattern(3000))}.bytes()
	}
	udp := packetV6{src: containerV6, dst: remoteV6}
	udp.next, udp.payload = protocolUDP, udp.udp(3000)
	extended := packetV6{src: containerV6, dst: remoteV6, next: protocolOptions, payload: join([]byte{6, 0}, padding, tcp(64)[ipv6Len:])}
	routed := udp
	routed.hops = 63
	program := bpf.DatapathProgramPROGRAM_FROM_CONTAINER
	cut := func(ip []byte, size uint16) arrival { return superpacket(fromContainerV6(ip), size) }
	const headers = ipv6Len + 20 + options
	tooBig := bpf.DatapathReasonPASS_TOO_BIG
	directV6.machine(t).checkAllV6(t, []caseV6{
		{
			name: "TCP fits", program: program, in: cut(tcp(64), 1500-headers), reason: bpf.DatapathReasonFORWARD_ROUTED,
			out: etherType(bridgeMAC, c1MAC, 0x86dd, tcp(63)),
		},
		{name: "TCP, a byte too big", program: program, in: cut(tcp(64), 1500-headers+1), reason: tooBig},
		{
			name: "UDP fits", program: program, in: cut(udp.bytes(), 1500-ipv6Len-udpLen), reason: bpf.DatapathReasonFORWARD_ROUTED,
			out: etherType(bridgeMAC, c1MAC, 0x86dd, routed.bytes()),
		},
		{name: "UDP, a byte too big", program: program, in: cut(udp.bytes(), 1500-ipv6Len-udpLen+1), reason: tooBig},
		{name: "behind an extension header", program: program, in: cut(extended.bytes(), 100), reason: tooBig},
	})
	// Each segment needs a checksum of its own in the tunnel, if the peer needs one.
	vxlanV6.machine(t).checkAllV6(t, []caseV6{
		{name: "vxlan fits", program: program, in: cut(tcp(64), 1430-headers), reason: bpf.DatapathReasonPASS_UDP_CHECKSUM},
		{name: "vxlan, a byte too big", program: program, in: cut(tcp(64), 1430-headers+1), reason: tooBig},
	})
	for _, tun := range []tunnelV6{sixInSix, sixIn4, vxlanV6Zero} {
		tun.machine(t).checkAllV6(t, []caseV6{
			{
				name: tun.name + " fits, no type", program: program, in: cut(tcp(64), 1430-headers),
				reason: bpf.DatapathReasonPASS_NOT_ENCAPSULABLE,
			},
			{name: tun.name + ", a byte too big", program: program, in: cut(tcp(64), 1430-headers+1), reason: tooBig},
		})
	}
}

// TestIPv6UDPChecksum: in VXLAN from a peer, zero is none, and what is wrong, or not to be told, is the kernel's device's.
func TestIPv6UDPChecksum(t *testing.T) {
	const at = udpSumAt
	inner := packetV6{src: remoteV6, dst: containerV6}
	fragment := fragmentOf(inner, 9, true)
	right := summedV6(vxlanV6.wrap(peerV6, 0, inner.bytes()))
	noInner := patched(inner.bytes(), put16(ipv6Len+6, 0))
	out := etherType(c1MAC, bridgeMAC, 0x86dd, packetV6{src: remoteV6, dst: containerV6, hops: 63}.bytes())
	partial := patched(right, put16(at, internetSum(udpPseudoV6(right))))
	fragment.hops = 63
	fragmentOut := etherType(c1MAC, bridgeMAC, 0x86dd, fragment.bytes())
	fragment.hops = 64
	program := bpf.DatapathProgramPROGRAM_FROM_NETWORK
	delivered, passed := bpf.DatapathReasonFORWARD_DELIVERED, bpf.DatapathReasonPASS_UDP_CHECKSUM
	in := func(ip []byte) arrival { return vxlanV6.arrives(ip) }
	vxlanV6.machine(t).checkAllV6(t, []caseV6{
		{name: "zero", program: program, in: in(patched(right, put16(at, 0))), reason: delivered, out: out},
		{name: "right", program: program, in: in(right), reason: delivered, out: out},
		{name: "to be filled in yet", program: program, in: in(partial), reason: delivered, out: out},
		{name: "wrong", program: program, in: in(patched(right, put8(at, right[at]^1))), reason: passed, checked: true},
		{name: "another VXLAN reserved byte", program: program, in: in(patched(right, put8(ipv6Len+udpLen+vxlanLen+6, 9))), reason: passed, checked: true},
		{name: "inner hop limit changed", program: program, in: in(patched(right, put8(ipv6Len+udpLen+vxlanLen+etherLen+7, 9))), reason: passed, checked: true},
		{name: "inner packet has none", program: program, in: in(summedV6(vxlanV6.wrap(peerV6, 0, noInner))), reason: passed, checked: true},
		{name: "inner fragment", program: program, in: in(summedV6(vxlanV6.wrap(peerV6, 0, fragment.bytes()))), reason: passed, checked: true},
		{name: "inner fragment, zero", program: program, in: in(vxlanV6.wrap(peerV6, 0, fragment.bytes())), reason: delivered, out: fragmentOut},
		{name: "bytes behind", program: program, in: in(summedV6(vxlanV6.wrap(peerV6, 0, join(inner.bytes(), []byte{1, 2})))), reason: passed, checked: true},
		{
			name: "wrong, of a stranger", program: program, in: in(patched(summedV6(vxlanV6.wrap(strangerV6, 0, inner.bytes())), put8(at, 1))),
			reason: bpf.DatapathReasonDROP_UNKNOWN_HOST, event: dropEvent{strangerV6, remoteV6, containerV6},
		},
	})
}

// TestIPv6OuterFragments: the first fragment of a tunnel packet tells who sent it, and the kernel puts it together.
func TestIPv6OuterFragments(t *testing.T) {
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, fourIn6} {
		fragment := func(node netip.Addr, inner []byte, offset uint16) []byte {
			whole := tun.wrap(node, 0, inner)
			head := []byte{whole[6], 0, byte(offset >> 5), byte(offset<<3) | 1, 0, 0, 0, 7}
			most := (len(whole) - ipv6Len - 16) &^ 7 // the rest is in the next
			return packetV6{src: node, dst: nodeV6, next: protocolFragment, payload: join(head, whole[ipv6Len:ipv6Len+most])}.bytes()
		}
		inner, spoofed := tun.datagram(tun.remote(), tun.container(), 64, 0), tun.datagram(tun.remote3(), tun.container(), 64, 0)
		program, outer := bpf.DatapathProgramPROGRAM_FROM_NETWORK, bpf.DatapathReasonPASS_OUTER_FRAGMENT
		tun.machine(t).checkAllV6(t, []caseV6{
			{name: tun.name + "/first", program: program, in: tun.arrives(fragment(peerV6, inner, 0)), reason: outer, checked: true},
			{name: tun.name + "/later", program: program, in: tun.arrives(fragment(peerV6, inner, 9)), reason: outer},
			{
				name: tun.name + "/first, of a stranger", program: program, in: tun.arrives(fragment(strangerV6, inner, 0)),
				reason: bpf.DatapathReasonDROP_UNKNOWN_HOST, event: dropEvent{strangerV6, tun.remote(), tun.container()},
			},
			{
				name: tun.name + "/first, spoofed", program: program, in: tun.arrives(fragment(peerV6, spoofed, 0)),
				reason: bpf.DatapathReasonDROP_SPOOFED_SOURCE, event: dropEvent{peerV6, tun.remote3(), tun.container()},
			},
		})
	}
}

// TestIPv6FlowLabel: packets of a flow have one label, fragments of a packet too, and flows have several.
func TestIPv6FlowLabel(t *testing.T) {
	m := sixInSix.machine(t)
	label := func(p packetV6) uint32 {
		verdict, out, err := m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, fromContainerV6(p.bytes()))
		must(t, err)
		if verdict != actRedirect {
			t.Fatalf("verdict %d", verdict)
		}
		return binary.BigEndian.Uint32(bytes.Clone(out[etherLen:])) & 0xfffff
	}
	p := packetV6{src: containerV6, dst: remoteV6}
	big := p
	big.next, big.payload = protocolUDP, p.udp(600)
	if a, b := label(p), label(big); a != b {
		t.Errorf("two labels of a flow: %05x and %05x", a, b)
	}
	if a, b := label(fragmentOf(p, 0, true)), label(fragmentOf(p, 9, false)); a != b {
		t.Errorf("two labels of a packet's fragments: %05x and %05x", a, b)
	}
	labels := map[uint32]bool{}
	for port := range byte(64) {
		q := p
		q.next, q.payload = protocolUDP, p.udp(64)
		q.payload[1] = port
		labels[label(q)] = true
	}
	if len(labels) < 32 {
		t.Errorf("64 flows have %d labels", len(labels))
	}
}

// TestIPv6NotForUs: tunnel packets to another, or of another network.
func TestIPv6NotForUs(t *testing.T) {
	for _, tun := range tunnelsV6 {
		elsewhere := tun
		if elsewhere.self = tun.third; tun.self.Is4() {
			elsewhere.self = node3
		}
		cases := []caseV6{{name: tun.name + "/to another node", in: tun.arrives(elsewhere.wrap(tun.node, 0, tun.datagram(tun.remote(), tun.container(), 64, 0)))}}
		if tun.encap == topology.EncapIPIP {
			d := tun.datagram(tun.remote(), tun.remote3(), 64, 0)
			cases = append(cases, caseV6{name: tun.name + "/for another subnet", in: tun.arrives(tun.wrap(tun.node, 0, d))})
		} else {
			ip := tun.wrap(tun.node, 0, tun.datagram(tun.remote(), tun.container(), 64, 0))
			cases = append(cases,
				caseV6{name: tun.name + "/another port", in: tun.arrives(patched(ip, put16(ipv6Len+2, 4789)))},
				caseV6{name: tun.name + "/another VNI", in: tun.arrives(patched(ip, put8(ipv6Len+udpLen+6, 2)))})
		}
		for i := range cases {
			cases[i].program, cases[i].reason = bpf.DatapathProgramPROGRAM_FROM_NETWORK, bpf.DatapathReasonPASS_NOT_OURS
		}
		tun.machine(t).checkAllV6(t, cases)
	}
}

// TestDualStack: both families on one node, each in the other's tunnels, and neither in the other's way.
func TestDualStack(t *testing.T) {
	m := machineOf(t, fourIn6, sixIn4)
	for _, tun := range []tunnelV6{fourIn6, sixIn4} {
		spoofed := tun.datagram(tun.remote3(), tun.container(), 64, 0)
		m.checkAllV6(t, []caseV6{
			{
				name: tun.name + "/sent", program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER, reason: bpf.DatapathReasonFORWARD_ENCAPSULATED,
				in:  fromContainerV6(tun.datagram(tun.container(), tun.remote(), 64, 0)),
				out: tun.sent(0, 63, tun.datagram(tun.container(), tun.remote(), 63, 0)),
			},
			{
				name: tun.name + "/received", program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, reason: bpf.DatapathReasonFORWARD_DELIVERED,
				in:  tun.arrives(tun.wrap(tun.node, 0, tun.datagram(tun.remote(), tun.container(), 64, 0))),
				out: etherType(c1MAC, bridgeMAC, tun.etherType(), tun.datagram(tun.remote(), tun.container(), 63, 0)),
			},
			{
				name: tun.name + "/spoofed", program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, reason: bpf.DatapathReasonDROP_SPOOFED_SOURCE,
				in: tun.arrives(tun.wrap(tun.node, 0, spoofed)), event: dropEvent{tun.node, tun.remote3(), tun.container()},
			},
		})
	}
}
