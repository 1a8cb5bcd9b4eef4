// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"bytes"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// checkBehindXDP has from_wire see a packet of from_network's first: of the two comes what comes of
// from_network alone, but that it is dropped earlier, and that a packet out of its tunnel cannot be left to the
// kernel's tunnel device.
func (m *machine) checkBehindXDP(t *testing.T, c caseV6) {
	t.Helper()
	must(t, m.begin())
	verdict, frame, err := m.run(bpf.DatapathProgramPROGRAM_FROM_WIRE, c.in)
	must(t, err)
	frame = bytes.Clone(frame)
	if verdict == xdpDrop {
		wire := packetCase{in: c.in, reason: c.reason, event: c.event}
		m.checkCounters(t, bpf.DatapathProgramPROGRAM_FROM_WIRE, wire)
		m.checkEvents(t, bpf.DatapathProgramPROGRAM_FROM_WIRE, wire)
		return
	}
	if bytes.Equal(frame, c.in.frame) { // as c was checked
		if c.reason != bpf.DatapathReasonDROP_SPOOFED_SOURCE && action(c.reason) == actShot {
			t.Errorf("at XDP a packet was passed that is dropped for %s", name(c.reason))
		}
		return
	}
	c.in.frame = frame
	switch c.reason {
	case bpf.DatapathReasonPASS_NAT, bpf.DatapathReasonPASS_NAT_UNKNOWN:
		c.reason, c.checked = bpf.DatapathReasonFORWARD_TO_HOST, true
		c.out = etherType(overlay.mac, uplink.mac, layers.EthernetType(uint16(frame[12])<<8|uint16(frame[13])), frame[etherLen:])
	case bpf.DatapathReasonFORWARD_TO_HOST:
		c.out = bytes.Clone(c.out)
		ethernetHeader(c.out).setSrc(uplink.mac)
	}
	m.checkV6(t, c)
}

// unwrappedV6 is what from_wire makes of a tunnel packet.
func (tun tunnelV6) unwrappedV6(inner []byte) []byte {
	return etherType(uplink.mac, wireMAC, tun.etherType(), inner)
}

// TestIPv6FromWire: what is sound leaves its tunnel, what is forged is dropped, and the rest is left alone.
func TestIPv6FromWire(t *testing.T) {
	for _, tun := range tunnelsV6 {
		t.Run(tun.name, func(t *testing.T) {
			tun.machine(t).checkAllV6(t, slices.Concat(tun.wireTunnelled(), tun.wireECN(), tun.wireLeft(), tun.wireCut()))
		})
	}
}

// ofWire has the cases run by from_wire.
func ofWire(cases ...caseV6) []caseV6 {
	for i := range cases {
		cases[i].program = bpf.DatapathProgramPROGRAM_FROM_WIRE
	}
	return cases
}

func (tun tunnelV6) wireTunnelled() []caseV6 {
	sound := tun.datagram(tun.remote(), tun.container(), 64, 0)
	spoofed := tun.datagram(tun.remote3(), tun.container(), 64, 0)
	big := join(sound, make([]byte, 3000))
	unknown := strangerV6
	if tun.self.Is4() {
		unknown = stranger
	}
	wrapped := func(inner []byte) []byte { return tun.wrap(tun.node, 0, inner) }
	padded := tun.arrives(join(wrapped(sound), make([]byte, 9)))
	other := tun.arrives(wrapped(sound))
	other.frame = patched(other.frame, patch{0, vtep7[:]})
	marked := tun.arrives(wrapped(sound))
	marked.frame = patched(marked.frame, patch{6, wireMAC[:]})
	decapsulated := bpf.DatapathReasonFORWARD_DECAPSULATED
	return ofWire([]caseV6{
		{name: "sound", in: tun.arrives(wrapped(sound)), reason: decapsulated, out: tun.unwrappedV6(sound)},
		{name: "padded", in: padded, reason: decapsulated, out: join(tun.unwrappedV6(sound), make([]byte, 9))},
		{name: "jumbo", in: tun.arrives(wrapped(big)), reason: decapsulated, out: tun.unwrappedV6(big)},
		{name: "another machine's", in: other, reason: bpf.DatapathReasonPASS_NOT_ROUTED},
		{name: "the mark from the wire", in: marked, reason: bpf.DatapathReasonDROP_WIRE_MAC},
		{
			name: "of a stranger", in: tun.arrives(tun.wrap(unknown, 0, sound)), reason: bpf.DatapathReasonDROP_UNKNOWN_HOST,
			event: dropEvent{unknown, tun.remote(), tun.container()},
		},
		{
			name: "spoofed", in: tun.arrives(wrapped(spoofed)), reason: bpf.DatapathReasonDROP_SPOOFED_SOURCE,
			event: dropEvent{tun.node, tun.remote3(), tun.container()},
		},
	}...)
}

// wireCut ends within the inner header. Of IP in IP nothing tells then whose it is.
func (tun tunnelV6) wireCut() []caseV6 {
	sound := tun.datagram(tun.remote(), tun.container(), 64, 0)
	cut := tun.wrap(tun.node, 0, sound[:10])
	c := caseV6{name: "inner header cut", in: tun.arrives(cut), reason: bpf.DatapathReasonPASS_MALFORMED}
	if tun.encap == topology.EncapVXLAN {
		c.reason, c.event.outer = bpf.DatapathReasonDROP_INNER_MALFORMED, tun.node
	}
	return ofWire(c)
}

// wireECN: what leaves its tunnel has the congestion that both headers tell of, and its flow label.
func (tun tunnelV6) wireECN() []caseV6 {
	const ect0, ce = 2, 3
	labelled := func(tos uint8) []byte {
		in := tun.datagram(tun.remote(), tun.container(), 64, tos)
		if tun.inner == 6 {
			copy(in[1:], []byte{in[1] | 0xa, 0xbc, 0xde})
		}
		return in
	}
	return ofWire(caseV6{
		name: "congested without ECN", in: tun.arrives(tun.wrap(tun.node, 0x54|ce, labelled(0xb8))),
		reason: bpf.DatapathReasonDROP_ECN, event: dropEvent{tun.node, tun.remote(), tun.container()},
	}, caseV6{
		name: "congested", in: tun.arrives(tun.wrap(tun.node, 0x54|ce, labelled(0xb8|ect0))),
		reason: bpf.DatapathReasonFORWARD_DECAPSULATED, out: tun.unwrappedV6(labelled(0xb8 | ce)),
	})
}

// wireLeft is no whole tunnel packet.
func (tun tunnelV6) wireLeft() []caseV6 {
	var cases []caseV6
	for name, ip := range linkScope(peerV6, nodeV6) {
		cases = append(cases, caseV6{name: name, in: tun.arrives(ip), reason: bpf.DatapathReasonPASS_NOT_OURS})
		group := tun.arrives(ip)
		group.frame = patched(group.frame, patch{0, []byte{0x33, 0x33, 0, 0, 0, 1}})
		cases = append(cases, caseV6{name: name + ", to a group's MAC", in: group, reason: bpf.DatapathReasonPASS_NOT_ROUTED})
	}
	plain := packetV6{src: peerV6, dst: nodeV6}
	for name, p := range map[string]packetV6{
		"hop-by-hop options": extension(plain, protocolHopByHop, padding...), "destination options": extension(plain, protocolOptions, padding...),
		"routing": extension(plain, protocolRouting, 4, 0, 0, 0, 0, 0), "UDP of another port": plain,
	} {
		cases = append(cases, caseV6{name: name, in: tun.arrives(p.bytes()), reason: bpf.DatapathReasonPASS_NOT_OURS})
	}
	return ofWire(append(cases, caseV6{
		name: "later fragment of UDP", in: tun.arrives(fragmentOf(plain, 9, false).bytes()), reason: bpf.DatapathReasonPASS_OUTER_FRAGMENT,
	})...)
}

// TestIPv6FromWireUDPChecksum: what headers cannot tell, and what is still to be made, is left to tc.
func TestIPv6FromWireUDPChecksum(t *testing.T) {
	const at = udpSumAt
	inner := packetV6{src: remoteV6, dst: containerV6}
	fragment := fragmentOf(inner, 9, true).bytes()
	right := summedV6(vxlanV6.wrap(peerV6, 0, inner.bytes()))
	pending := patched(right, put16(at, internetSum(udpPseudoV6(right))))
	out, fragmentOut := vxlanV6.unwrappedV6(inner.bytes()), vxlanV6.unwrappedV6(fragment)
	in := func(ip []byte) arrival { return vxlanV6.arrives(ip) }
	decapsulated, left := bpf.DatapathReasonFORWARD_DECAPSULATED, bpf.DatapathReasonPASS_UDP_CHECKSUM
	vxlanV6.machine(t).checkAllV6(t, ofWire([]caseV6{
		{name: "zero", in: in(patched(right, put16(at, 0))), reason: decapsulated, out: out},
		{name: "right", in: in(right), reason: decapsulated, out: out},
		{name: "still to be made", in: in(pending), reason: bpf.DatapathReasonPASS_CHECKED},
		{name: "wrong", in: in(patched(right, put8(at, right[at]^1))), reason: left},
		{name: "inner fragment", in: in(summedV6(vxlanV6.wrap(peerV6, 0, fragment))), reason: left},
		{name: "inner fragment, zero", in: in(vxlanV6.wrap(peerV6, 0, fragment)), reason: decapsulated, out: fragmentOut},
	}...))
}

// TestIPv6FromWireModes: generic mode decapsulates nothing; what goes to another CPU does so in its tunnel.
func TestIPv6FromWireModes(t *testing.T) {
	for _, tun := range tunnelsV6 {
		sound := tun.datagram(tun.remote(), tun.container(), 64, 0)
		c := caseV6{in: tun.arrives(tun.wrap(tun.node, 0, sound)), program: bpf.DatapathProgramPROGRAM_FROM_WIRE}
		c.name, c.reason = tun.name+"/generic", bpf.DatapathReasonPASS_CHECKED
		machineWith(t, generic, tun).checkAllV6(t, []caseV6{c})
		c.name, c.reason = tun.name+"/spread", bpf.DatapathReasonFORWARD_SPREAD
		if tun.encap == topology.EncapVXLAN {
			c.reason, c.out = bpf.DatapathReasonFORWARD_DECAPSULATED, tun.unwrappedV6(sound)
		}
		machineWith(t, spread, tun).checkAllV6(t, []caseV6{c})
	}
}

// TestIPv6Unwrapped: what from_wire has taken out of a tunnel, at tc. A tunnel inside the tunnel stays one.
func TestIPv6Unwrapped(t *testing.T) {
	network := bpf.DatapathProgramPROGRAM_FROM_NETWORK
	host := func(tun tunnelV6, ip []byte) caseV6 {
		return caseV6{
			program: network, in: arrival{frame: tun.unwrappedV6(ip), ifindex: uplink.ifindex}, reason: bpf.DatapathReasonFORWARD_TO_HOST,
			out: etherType(overlay.mac, uplink.mac, tun.etherType(), ip), checked: true,
		}
	}
	for _, tun := range tunnelsV6 {
		short := host(tun, tun.datagram(tun.remote(), tun.container(), 64, 0))
		short.in.frame = short.in.frame[:etherLen+ipv6Len]
		short.reason = bpf.DatapathReasonDROP_TUNNEL_MALFORMED
		t.Run(tun.name+"/truncated", func(t *testing.T) { tun.machine(t).checkV6(t, short) })
	}
	both := machineOf(t, fourIn6, sixIn4)
	nested6 := packetV6{src: remoteV6, dst: nodeV6, next: protocolIPIP, payload: fourIn6.datagram(remote2, c1, 64, 0)}.bytes()
	nested4 := sixIn4.wrap(remote2, 0, sixIn4.datagram(remoteV6, containerV6, 64, 0))
	t.Run("4in6 inside a tunnel", func(t *testing.T) { both.checkV6(t, host(sixIn4, nested6)) })
	t.Run("6in4 inside a tunnel", func(t *testing.T) { both.checkV6(t, host(fourIn6, nested4)) })
	// In generic mode nothing comes by that address.
	plain := host(sixInSix, sixInSix.datagram(remoteV6, containerV6, 64, 0))
	plain.reason, plain.out, plain.checked = bpf.DatapathReasonDROP_SPOOFED_SOURCE, nil, false
	plain.event = dropEvent{src: remoteV6, dst: containerV6}
	t.Run("where it is not in use", func(t *testing.T) { machineWith(t, generic, sixInSix).checkV6(t, plain) })
}

// TestIPv6Spread: packets of a flow go to one CPU, flows to all, whatever is inside what; fragments by addresses alone.
// Of two CPUs one has no queue, and what would go there stays.
func TestIPv6Spread(t *testing.T) {
	for _, tun := range tunnelsV6[1:] {
		t.Run(tun.name, func(t *testing.T) {
			m := machineWith(t, over2, tun)
			slot := func(inner []byte) int32 {
				verdict, _, err := m.run(bpf.DatapathProgramPROGRAM_FROM_WIRE, tun.arrives(tun.wrap(tun.node, 0, inner)))
				must(t, err)
				return verdict
			}
			const flows = 64
			port := ipv6Len
			if tun.inner == 4 {
				port = ipv4Len
			}
			seen := map[int32]int{}
			for i := range flows {
				in := patched(tun.datagram(tun.remote(), tun.container(), 64, 0), put16(port, uint16(40000+i)))
				first := slot(in)
				seen[first]++
				if again := slot(patched(in, put16(port+udpLen, 0xffff))); again != first {
					t.Errorf("port %d: one packet to slot %d, the next to %d", 40000+i, first, again)
				}
			}
			if len(seen) != 2 || min(seen[xdpPass], seen[xdpRedirect]) < flows/4 {
				t.Errorf("verdicts of %d flows: %v, want both, each often", flows, seen)
			}
			if tun.inner == 4 {
				return // TestSpread has IPv4's
			}
			p := packetV6{src: remoteV6, dst: containerV6}
			first := slot(fragmentOf(p, 0, true).bytes())
			for offset := range uint16(flows) {
				if got := slot(fragmentOf(p, offset+1, false).bytes()); got != first {
					t.Fatalf("fragments of one pair of addresses: %d and %d", first, got)
				}
			}
		})
	}
}
