// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
)

// networkDirect: plain packets of host-gw peers.
func networkDirect() []packetCase {
	d := datagram{src: remote5, dst: c1}
	var cases []packetCase
	for kind, d := range carried(remote5, c1, 1500) {
		cases = append(cases, packetCase{
			name: "host-gw/" + kind, in: arrives(d.bytes()), reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(d.hop(1).bytes()),
		})
	}
	cases = append(cases,
		packetCase{
			name: "host-gw/superpacket", in: superpacket(arrives(d.bytes()), 30),
			reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(d.hop(1).bytes()),
		},
		packetCase{
			name: "host-gw/wrong checksum", in: arrives(patched(d.bytes(), put16(10, 1))), reason: bpf.DatapathReasonPASS_MALFORMED,
		},
		packetCase{
			name: "host-gw/padded", in: arrives(join(d.bytes(), make([]byte, 9))),
			reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(join(d.hop(1).bytes(), make([]byte, 9))),
		})
	passed := func(name string, ip []byte) {
		cases = append(cases, packetCase{name: "host-gw/" + name, in: arrives(ip), reason: bpf.DatapathReasonPASS_NOT_OURS})
	}
	options := d
	options.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
	passed("options", options.bytes())
	passed("TTL 1", d.withTTL(1).bytes())
	passed("TTL 0", d.withTTL(0).bytes())
	passed("not learned", datagram{src: remote5, dst: newborn}.bytes())
	passed("peer that encapsulates", datagram{src: remote2, dst: c1}.bytes())
	passed("peer that encapsulates, to the node", datagram{src: remote2, dst: node1}.bytes())
	passed("source of ours, to the node", datagram{src: c1, dst: node1}.bytes())
	passed("source of ours, to the outside", datagram{src: c1, dst: internet}.bytes())
	passed("peer's own address", datagram{src: node5, dst: c1}.bytes())
	cases = append(cases, forgedPlain("host-gw/source of ours", nil, c2), forgedPlain("host-gw/source of ours, not learned", nil, newborn))
	passed("source outside", datagram{src: internet, dst: c1}.bytes())
	passed("source of a number hosts does not have", datagram{src: nowhere, dst: c1}.bytes())
	return cases
}

// forgedPlain is a plain packet to c1 from an address that sends none by this way.
func forgedPlain(name string, w *world, src netip.Addr) packetCase {
	return packetCase{name: name, world: w, in: arrives(datagram{src: src, dst: c1}.bytes()),
		reason: bpf.DatapathReasonDROP_SPOOFED_SOURCE, event: dropEvent{src: src, dst: c1}}
}

// networkWorlds: the same packets where other things are switched on.
func networkWorlds() []packetCase {
	d := datagram{src: remote2, dst: c1}
	vxlan := from(node2, d.bytes())
	theirs := arrives(vxlan.bytes())
	vxlan.dstPort, vxlan.vni = 4789, 0xabcdef
	ours := arrives(vxlan.bytes())
	ipip := arrives(from(node3, datagram{src: remote3, dst: c1}.bytes()).bytes())
	udp := arrives(from(node4, datagram{src: remote4, dst: c1}.bytes()).bytes())
	spoof := datagram{src: remote3, dst: c1} // host 2 would have it by a route of network 0 alone
	spoofed := vxlan
	spoofed.inner = spoof.bytes()
	unlearned := vxlan
	unlearned.inner = datagram{src: remote2, dst: newborn}.bytes()
	notOurs := func(name string, w *world, in arrival) packetCase {
		return packetCase{name: w.name + "/" + name, world: w, in: in, reason: bpf.DatapathReasonPASS_NOT_OURS}
	}
	zeroPort := arrives(patched(udp.frame[etherLen:], put16(atUDPDst-etherLen, 0)))
	zeros := arrives(patched(theirs.frame[etherLen:], put16(atUDPDst-etherLen, 0), put32(atVNI-etherLen, 0)))
	return []packetCase{
		{
			name: "second/vxlan", world: second, in: ours,
			reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(d.hop(1).bytes()),
		},
		{
			name: "second/spoofed", world: second, in: arrives(spoofed.bytes()),
			reason: bpf.DatapathReasonDROP_SPOOFED_SOURCE, event: dropEvent{node2, spoof.src, spoof.dst},
		},
		{
			name: "second/container of network 0 alone", world: second, in: arrives(unlearned.bytes()),
			reason: bpf.DatapathReasonFORWARD_TO_HOST, out: intoStack(unlearned.inner),
		},
		notOurs("another port and VNI", second, theirs),
		notOurs("ipip", second, ipip),
		notOurs("udp", second, udp),
		notOurs("port 0", second, zeroPort),
		forgedPlain("second/host-gw", second, remote5),
		forgedPlain("second/past the tunnel", second, remote2),
		notOurs("host-gw, to the node", second, arrives(datagram{src: remote2, dst: node1}.bytes())),
		notOurs("source outside", second, arrives(datagram{src: internet, dst: c1}.bytes())),
		notOurs("vxlan", bare, theirs),
		notOurs("ipip", bare, ipip),
		notOurs("udp", bare, udp),
		notOurs("port 0", bare, zeroPort),
		notOurs("vxlan of port and VNI 0", bare, zeros),
		forgedPlain("bare/host-gw", bare, remote5),
	}
}
