// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
)

func TestFromHost(t *testing.T) {
	checkAll(t, bpf.DatapathProgramPROGRAM_FROM_HOST, tables()[bpf.DatapathProgramPROGRAM_FROM_HOST])
}

// fromHost is what the kernel hands to bpfnet0: from it, to the peer's VTEP.
func fromHost(d datagram) arrival {
	return arrival{frame: ethernet(vtep2, overlay.mac, d.bytes()), ifindex: overlay.ifindex}
}

// hostToRemote: each kind of packet by each encapsulation. The hop is the kernel's, so TTL 1 goes
// out as it is.
func hostToRemote() []packetCase {
	var cases []packetCase
	for _, r := range remotes {
		kinds := carried(vtepAddr, r.container, r.mtu)
		d := datagram{src: vtepAddr, dst: r.container}
		kinds["TTL 1"] = d.withTTL(1)
		kinds["from the node's address"] = datagram{src: node1, dst: r.container}
		kinds["from the bridge"] = datagram{src: bridge, dst: r.container}
		kinds["from a container by way of the kernel"] = datagram{src: newborn, dst: r.container}
		for kind, d := range kinds {
			in := fromHost(d)
			cases = append(cases, packetCase{
				name:   r.name + "/" + kind,
				in:     in,
				reason: sentReason(r.node),
				out:    sent(in.frame, r.node, d.bytes()),
			})
		}
		cases = append(cases, packetCase{
			name: r.name + "/a byte too big", in: fromHost(d.sized(r.mtu + 1)), reason: bpf.DatapathReasonPASS_TOO_BIG,
		})
	}
	return cases
}

func hostOthers() []packetCase {
	d := datagram{src: vtepAddr, dst: remote2}
	valid := fromHost(d).frame
	at := func(frame []byte) arrival { return arrival{frame: frame, ifindex: overlay.ifindex} }
	options := d
	options.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
	spoofed := func(name string, d datagram) packetCase {
		return packetCase{
			name: name, in: fromHost(d),
			reason: bpf.DatapathReasonDROP_NODE_SOURCE, event: dropEvent{src: d.src, dst: d.dst},
		}
	}
	return []packetCase{
		{name: "ARP", in: at(patched(valid, put16(12, 0x806))), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "IPv6", in: at(patched(valid, put16(12, 0x86dd))), reason: bpf.DatapathReasonPASS_PROTOCOL},
		{name: "version 5", in: at(resum(patched(valid, put8(atIP, 0x55)))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{name: "padded", in: at(join(valid, make([]byte, 6))), reason: bpf.DatapathReasonPASS_MALFORMED},
		{
			name: "options", in: fromHost(options), reason: bpf.DatapathReasonFORWARD_ENCAPSULATED,
			out: sent(fromHost(options).frame, node2, options.bytes()),
		},
		{
			name: "options, superpacket that may be too big", in: superpacket(fromHost(options.sized(3000)), 1450-119),
			reason: bpf.DatapathReasonPASS_TOO_BIG,
		},
		{
			name: "bare/no route, and no tunnel device either", world: bare, in: fromHost(datagram{src: node1, dst: internet}),
			reason: bpf.DatapathReasonDROP_UNSENDABLE, event: dropEvent{src: node1, dst: internet},
		},
		{
			name: "bare/ARP", world: bare, in: at(patched(valid, put16(12, 0x806))),
			reason: bpf.DatapathReasonDROP_UNSENDABLE,
		},
		{name: "no route", in: fromHost(datagram{src: node1, dst: internet}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "no route, source not ours", in: fromHost(datagram{src: remote3, dst: internet}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		{name: "to itself", in: fromHost(datagram{src: node1, dst: c1}), reason: bpf.DatapathReasonPASS_LOCAL},
		{name: "multicast", in: fromHost(datagram{src: vtepAddr, dst: group}), reason: bpf.DatapathReasonPASS_NO_ROUTE},
		spoofed("source of a peer's subnet", datagram{src: remote3, dst: remote2}),
		spoofed("source of the receiver", datagram{src: remote2, dst: remote2}),
		spoofed("source of a peer", datagram{src: node2, dst: remote3}),
		spoofed("source outside", datagram{src: internet, dst: remote2}),
		spoofed("source 0.0.0.0", datagram{src: zeroAddr, dst: remote2}),
		spoofed("source nobody's", datagram{src: noLease, dst: remote2}),
		{
			name: "superpacket too big", in: superpacket(fromHost(d.sized(3000)), 1450-27),
			reason: bpf.DatapathReasonPASS_TOO_BIG,
		},
		{
			name: "superpacket without a type", in: superpacket(fromHost(d.sized(3000)), 1450-28),
			reason: bpf.DatapathReasonPASS_NOT_ENCAPSULABLE,
		},
		{
			name: "superpacket to host-gw", in: superpacket(fromHost(datagram{src: vtepAddr, dst: remote5}.sized(3000)), 1472),
			reason: bpf.DatapathReasonFORWARD_ROUTED,
		},
	}
}
