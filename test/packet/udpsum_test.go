// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"

	"github.com/bpfnet/bpfnet/bpf"
)

// networkUDPSums: tunnel packets that have a UDP checksum.
func networkUDPSums() []packetCase {
	var cases []packetCase
	add := func(name string, ip []byte, reason bpf.DatapathReason, out []byte, e dropEvent) {
		cases = append(cases, packetCase{name: name, in: arrives(ip), reason: reason, out: out, event: e})
	}
	for _, tun := range tunnels {
		if tun.name == "ipip" {
			continue
		}
		for kind, d := range carried(tun.container, c1, 1400) {
			in := from(tun.node, d.bytes())
			in.checksum = true
			reason, out := bpf.DatapathReasonFORWARD_DELIVERED, intoC1(d.hop(1).bytes())
			if !summed(in.inner) && tun.name == "vxlan" {
				reason, out = bpf.DatapathReasonPASS_UDP_CHECKSUM, nil
			}
			add(tun.name+"/UDP checksum/"+kind, in.bytes(), reason, out, dropEvent{})
		}
		d := datagram{src: tun.container, dst: c1}
		in := from(tun.node, d.bytes())
		in.checksum = true
		wrong := in.bytes()
		wrong[ipv4Len+7] ^= 1
		reason, event := bpf.DatapathReasonPASS_UDP_CHECKSUM, dropEvent{}
		if tun.name == "udp" {
			reason, event = bpf.DatapathReasonDROP_TUNNEL_MALFORMED, dropEvent{tun.node, d.src, d.dst}
		}
		add(tun.name+"/UDP checksum, wrong", wrong, reason, nil, event)
		flipped := in.bytes()
		flipped[tun.headerLen+1] ^= 4 // the inner TOS
		flipped = patched(flipped, put16(tun.headerLen+10, 0))
		binary.BigEndian.PutUint16(flipped[tun.headerLen+10:], ^internetSum(flipped[tun.headerLen:][:ipv4Len]))
		add(tun.name+"/UDP checksum, inner header summed up again", flipped, bpf.DatapathReasonFORWARD_DELIVERED,
			intoC1(d.withTOS(4).hop(1).bytes()), dropEvent{})
		partial := in.bytes()
		pseudo := join(partial[12:20], []byte{0, protocolUDP}, partial[ipv4Len+4:ipv4Len+6])
		binary.BigEndian.PutUint16(partial[ipv4Len+6:], internetSum(pseudo))
		add(tun.name+"/UDP checksum, to be filled in yet", partial, bpf.DatapathReasonFORWARD_DELIVERED, intoC1(d.hop(1).bytes()), dropEvent{})
		in.inner = join(d.bytes(), []byte{1, 2})
		reason, out := bpf.DatapathReasonPASS_UDP_CHECKSUM, []byte(nil)
		if tun.name == "udp" {
			reason, out = bpf.DatapathReasonFORWARD_DELIVERED, intoC1(join(d.hop(1).bytes(), []byte{1, 2}))
		}
		add(tun.name+"/UDP checksum, bytes behind the inner packet", in.bytes(), reason, out, dropEvent{})
		in.inner = patched(d.bytes(), put16(ipv4Len+6, 0))
		if tun.name == "udp" {
			out = intoC1(patched(d.hop(1).bytes(), put16(ipv4Len+6, 0)))
		}
		add(tun.name+"/UDP checksum, inner packet without", in.bytes(), reason, out, dropEvent{})
	}
	return cases
}

// summed says whether the packet has a checksum over all that follows its IP header.
func summed(packet []byte) bool {
	ip := ipHeader(packet)
	return !ip.isFragment() && ip.protocol() != protocolSCTP
}
