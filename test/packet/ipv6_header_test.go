// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// extension is a packet with one extension header of eight bytes in front of UDP.
func extension(p packetV6, next uint8, rest ...byte) packetV6 {
	udp := p.udp(64)
	p.next, p.payload = next, join([]byte{protocolUDP, 0}, rest, udp)
	return p
}

var padding = []byte{1, 4, 0, 0, 0, 0} // PadN (RFC 8200, 4.2)

// fragmentOf is a fragment at an offset, in units of 8 bytes.
func fragmentOf(p packetV6, offset uint16, more bool) packetV6 {
	field := offset << 3
	if more {
		field |= 1
	}
	return extension(p, protocolFragment, byte(field>>8), byte(field), 0, 0, 0, 7)
}

// TestIPv6Extensions: hop-by-hop options are the kernel's, any other header concerns who gets the packet.
func TestIPv6Extensions(t *testing.T) {
	m := directV6.machine(t)
	out := packetV6{src: containerV6, dst: remoteV6}
	in := packetV6{src: remoteV6, dst: containerV6}
	build := map[string]func(packetV6) packetV6{
		"destination options": func(p packetV6) packetV6 { return extension(p, protocolOptions, padding...) },
		"routing":             func(p packetV6) packetV6 { return extension(p, protocolRouting, 4, 0, 0, 0, 0, 0) },
		"first fragment":      func(p packetV6) packetV6 { return fragmentOf(p, 0, true) },
		"later fragment":      func(p packetV6) packetV6 { return fragmentOf(p, 9, true) },
		"last fragment":       func(p packetV6) packetV6 { return fragmentOf(p, 181, false) },
		"atomic fragment":     func(p packetV6) packetV6 { return fragmentOf(p, 0, false) },
		"no next header":      func(p packetV6) packetV6 { p.next, p.payload = 59, []byte{}; return p },
		"unknown protocol":    func(p packetV6) packetV6 { p.next, p.payload = 253, pattern(8); return p },
		"AH":                  func(p packetV6) packetV6 { return extension(p, 51, padding...) },
	}
	hop := func(p packetV6, mac [2][6]byte) []byte {
		p.hops = 63
		return etherType(mac[0], mac[1], 0x86dd, p.bytes())
	}
	container, network := bpf.DatapathProgramPROGRAM_FROM_CONTAINER, bpf.DatapathProgramPROGRAM_FROM_NETWORK
	for name, with := range build {
		m.checkAllV6(t, []caseV6{
			{
				name: name + "/sent", program: container, in: fromContainerV6(with(out).bytes()), reason: bpf.DatapathReasonFORWARD_ROUTED,
				out: hop(with(out), [2][6]byte{bridgeMAC, c1MAC}),
			},
			{
				name: name + "/received", program: network, in: directV6.arrives(with(in).bytes()), reason: bpf.DatapathReasonFORWARD_DELIVERED,
				out: hop(with(in), [2][6]byte{c1MAC, bridgeMAC}),
			},
		})
	}
	m.checkAllV6(t, []caseV6{
		{
			name: "hop-by-hop/sent", program: container, in: fromContainerV6(extension(out, protocolHopByHop, padding...).bytes()),
			reason: bpf.DatapathReasonPASS_OPTIONS,
		},
		{
			name: "hop-by-hop/received", program: network, in: directV6.arrives(extension(in, protocolHopByHop, padding...).bytes()),
			reason: bpf.DatapathReasonPASS_NOT_OURS,
		},
	})
}

// TestIPv6InTunnel: what a container's packet has inside the tunnel is the stack's where a router reads it.
func TestIPv6InTunnel(t *testing.T) {
	for _, tun := range tunnelsV6 {
		t.Run(tun.name, func(t *testing.T) {
			m := tun.machine(t)
			network := bpf.DatapathProgramPROGRAM_FROM_NETWORK
			to := func(name string, inner, out []byte, reason bpf.DatapathReason) caseV6 {
				c := caseV6{name: name, program: network, in: tun.arrives(tun.wrap(tun.node, 0, inner)), reason: reason}
				c.out = etherType(c1MAC, bridgeMAC, tun.etherType(), out)
				if reason == bpf.DatapathReasonFORWARD_TO_HOST {
					c.out, c.checked = etherType(overlay.mac, routerMAC, tun.etherType(), out), true
				}
				return c
			}
			host, delivered := bpf.DatapathReasonFORWARD_TO_HOST, bpf.DatapathReasonFORWARD_DELIVERED
			d := func(hops uint8) []byte { return tun.datagram(tun.remote(), tun.container(), hops, 0) }
			newborn := tun.datagram(tun.remote(), tun.newborn(), 64, 0)
			cases := []caseV6{
				to("hop limit 255", d(255), d(254), delivered),
				to("hop limit 2", d(2), d(1), delivered),
				to("hop limit 1", d(1), d(1), host),
				to("hop limit 0", d(0), d(0), host),
				to("not learned", newborn, newborn, host),
				to("bytes behind it", join(d(64), []byte{1, 2, 3}), join(d(63), []byte{1, 2, 3}), delivered),
			}
			if tun.inner == 6 {
				p := packetV6{src: remoteV6, dst: containerV6}
				q := p
				q.hops = 63
				options := extension(p, protocolHopByHop, padding...).bytes()
				cases = append(cases,
					to("hop-by-hop options", options, options, host),
					to("destination options", extension(p, protocolOptions, padding...).bytes(), extension(q, protocolOptions, padding...).bytes(), delivered),
					to("first fragment", fragmentOf(p, 0, true).bytes(), fragmentOf(q, 0, true).bytes(), delivered),
					to("later fragment", fragmentOf(p, 100, true).bytes(), fragmentOf(q, 100, true).bytes(), delivered))
			}
			m.checkAllV6(t, cases)
		})
	}
}

// TestIPv6HopLimit: a hop limit that runs out here is the kernel's to answer.
func TestIPv6HopLimit(t *testing.T) {
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4, directV6} {
		var cases []caseV6
		for hops := range uint8(2) {
			p := packetV6{src: containerV6, dst: remoteV6, hops: hops, hopsZero: hops == 0}
			local := packetV6{src: containerV6, dst: secondV6, hops: hops, hopsZero: hops == 0}
			cases = append(cases,
				caseV6{
					name: fmt.Sprintf("%s/%d to a peer", tun.name, hops), program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER,
					in: fromContainerV6(p.bytes()), reason: bpf.DatapathReasonPASS_TTL,
				},
				caseV6{
					name: fmt.Sprintf("%s/%d to a neighbour", tun.name, hops), program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER,
					in: fromContainerV6(local.bytes()), reason: bpf.DatapathReasonPASS_TTL,
				})
		}
		tun.machine(t).checkAllV6(t, cases)
	}
	plain := packetV6{src: remoteV6, dst: containerV6, hops: 1}
	directV6.machine(t).checkV6(t, caseV6{
		program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, in: directV6.arrives(plain.bytes()), reason: bpf.DatapathReasonPASS_NOT_OURS,
	})
}

// TestIPv6Lengths: lengths that contradict each other.
func TestIPv6Lengths(t *testing.T) {
	const atPayloadLen = etherLen + 4
	frame := fromContainerV6(packetV6{src: containerV6, dst: remoteV6}.bytes()).frame
	jumbo := packetV6{src: containerV6, dst: remoteV6}
	jumbo = extension(jumbo, protocolHopByHop, 0xc2, 4, 0, 0, 0, 80) // RFC 2675, 2
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4, directV6} {
		var cases []caseV6
		bad := func(name string, frame []byte) {
			for program, ifindex := range map[bpf.DatapathProgram]uint32{
				bpf.DatapathProgramPROGRAM_FROM_CONTAINER: link1.ifindex, bpf.DatapathProgramPROGRAM_FROM_HOST: overlay.ifindex,
			} {
				c := caseV6{
					name: fmt.Sprintf("%s/%d/%s", tun.name, program, name), program: program,
					in: arrival{frame: frame, ifindex: ifindex}, reason: bpf.DatapathReasonPASS_MALFORMED,
				}
				if program == bpf.DatapathProgramPROGRAM_FROM_HOST && tun.encap != topology.EncapVXLAN {
					c.reason = bpf.DatapathReasonDROP_UNSENDABLE
				}
				cases = append(cases, c)
			}
		}
		bad("longer than the packet", patched(frame, put16(atPayloadLen, 73)))
		bad("much longer", patched(frame, put16(atPayloadLen, 0xffff)))
		bad("shorter", patched(frame, put16(atPayloadLen, 71)))
		bad("0", patched(frame, put16(atPayloadLen, 0)))
		bad("jumbogram", patched(fromContainerV6(jumbo.bytes()).frame, put16(atPayloadLen, 0)))
		bad("version 4", patched(frame, put8(etherLen, 0x40)))
		bad("version 7", patched(frame, put8(etherLen, 0x70)))
		bad("mapped source", patched(frame, patch{etherLen + 8, join(make([]byte, 10), []byte{0xff, 0xff}, c1.AsSlice())}))
		bad("mapped destination", patched(frame, patch{etherLen + 24, join(make([]byte, 10), []byte{0xff, 0xff}, remote2.AsSlice())}))
		tun.machine(t).checkAllV6(t, cases)
	}
}

// TestIPv6Truncated cuts packets short at every length, the lengths in them as they were.
func TestIPv6Truncated(t *testing.T) {
	for _, tun := range append(tunnelsV6, directV6) {
		t.Run(tun.name, func(t *testing.T) {
			m := tun.machine(t)
			in := tun.arrives(tun.wrap(tun.node, 0, tun.datagram(tun.remote(), tun.container(), 64, 0)))
			first := etherLen + ipv6Len
			if tun.self.Is4() {
				first = testRunMin
			}
			for n := first; n < len(in.frame); n++ {
				cut := arrival{frame: in.frame[:n], ifindex: in.ifindex}
				m.checkV6(t, caseV6{program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, in: cut, reason: bpf.DatapathReasonPASS_MALFORMED})
			}
			if tun.inner == 4 {
				return
			}
			in = fromContainerV6(packetV6{src: containerV6, dst: remoteV6}.bytes())
			for n := etherLen + ipv6Len; n < len(in.frame); n++ {
				cut := arrival{frame: in.frame[:n], ifindex: in.ifindex}
				m.checkV6(t, caseV6{program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER, in: cut, reason: bpf.DatapathReasonPASS_MALFORMED})
			}
		})
	}
}

// TestIPv6TruncatedInside cuts the packet inside the tunnel short at every length, with an outer header that
// is right; once with the frame ending there, once with the rest behind as padding.
func TestIPv6TruncatedInside(t *testing.T) {
	for _, tun := range tunnelsV6 {
		t.Run(tun.name, func(t *testing.T) {
			m := tun.machine(t)
			frame := tun.arrives(tun.wrap(tun.node, 0, tun.datagram(tun.remote(), tun.container(), 64, 0))).frame
			outer, inner := ipv6Len, ipv6Len
			if tun.self.Is4() {
				outer = ipv4Len
			}
			if tun.inner == 4 {
				inner = ipv4Len
			}
			for n := outer; n < len(frame)-etherLen; n++ {
				cut := patched(frame)
				if tun.self.Is4() {
					cut = resum(patched(frame, put16(atLen, uint16(n))))
				} else {
					binary.BigEndian.PutUint16(cut[etherLen+4:], uint16(n-outer))
				}
				if tun.encap == topology.EncapVXLAN {
					binary.BigEndian.PutUint16(cut[etherLen+outer+4:], uint16(n-outer))
				}
				c := caseV6{program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, reason: bpf.DatapathReasonDROP_INNER_MALFORMED, event: dropEvent{outer: tun.node}}
				padded := c
				switch {
				case tun.encap == topology.EncapVXLAN && n < outer+udpLen:
					c.reason, padded.reason = bpf.DatapathReasonPASS_NOT_OURS, bpf.DatapathReasonDROP_TUNNEL_MALFORMED
				case tun.encap == topology.EncapVXLAN && n < outer+udpLen+vxlanLen+etherLen:
					c.reason, padded.reason = bpf.DatapathReasonDROP_TUNNEL_MALFORMED, bpf.DatapathReasonDROP_TUNNEL_MALFORMED
				case tun.encap == topology.EncapIPIP && n < outer+inner:
					c.reason, padded.reason = bpf.DatapathReasonPASS_MALFORMED, bpf.DatapathReasonPASS_MALFORMED
				}
				c.name, padded.name = fmt.Sprintf("to %d bytes", n), fmt.Sprintf("to %d bytes, padded", n)
				c.in, padded.in = arrival{frame: cut[:etherLen+n], ifindex: uplink.ifindex}, arrival{frame: cut, ifindex: uplink.ifindex}
				m.checkAllV6(t, []caseV6{c, padded})
			}
		})
	}
}
