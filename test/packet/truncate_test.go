// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestTruncated cuts a packet of each kind short at every length: the frame ends before the outer
// packet says it does, which is the kernel's to count. Below a whole IPv4 header a test run refuses
// the packet (6.18, net/bpf/test_run.c): wire_test.go sends those.
func TestTruncated(t *testing.T) {
	for program, cases := range wholePackets() {
		for _, c := range cases {
			for n := testRunMin; n < len(c.in.frame); n++ {
				c := c
				c.name = fmt.Sprintf("%d/%s/to %d bytes", program, c.name, n)
				c.in.frame = c.in.frame[:n]
				c.out, c.reason = nil, bpf.DatapathReasonPASS_MALFORMED
				t.Run(c.name, func(t *testing.T) { check(t, program, c) })
			}
		}
	}
}

// wholePackets are the first packet of each program by each encapsulation.
func wholePackets() map[bpf.DatapathProgram][]packetCase {
	whole := map[bpf.DatapathProgram][]packetCase{}
	for _, r := range remotes {
		whole[bpf.DatapathProgramPROGRAM_FROM_CONTAINER] = append(whole[bpf.DatapathProgramPROGRAM_FROM_CONTAINER],
			packetCase{name: r.name, in: fromC1(datagram{src: c1, dst: r.container})})
		whole[bpf.DatapathProgramPROGRAM_FROM_HOST] = append(whole[bpf.DatapathProgramPROGRAM_FROM_HOST],
			packetCase{name: r.name, in: fromHost(datagram{src: vtepAddr, dst: r.container})})
	}
	for _, tun := range tunnels {
		whole[bpf.DatapathProgramPROGRAM_FROM_NETWORK] = append(whole[bpf.DatapathProgramPROGRAM_FROM_NETWORK],
			packetCase{name: tun.name, in: arrives(from(tun.node, datagram{src: tun.container, dst: c1}.bytes()).bytes())})
	}
	return whole
}

// TestTruncatedInside cuts the packet inside the tunnel short at every length, with an outer header
// that is right; once with the frame ending there, once with padding behind.
func TestTruncatedInside(t *testing.T) {
	for _, tun := range tunnels {
		frame := arrives(from(tun.node, datagram{src: tun.container, dst: c1}.bytes()).bytes()).frame
		for n := ipv4Len; n < len(frame)-etherLen; n++ {
			cut := resum(patched(frame, put16(atLen, uint16(n))))
			if tun.name != "ipip" {
				binary.BigEndian.PutUint16(cut[atUDPLen:], uint16(n-ipv4Len))
			}
			ends := packetCase{name: fmt.Sprintf("%s/to %d bytes", tun.name, n), in: arrival{frame: cut[:etherLen+n], ifindex: uplink.ifindex}}
			padded := packetCase{name: ends.name + ", padded", in: arrival{frame: cut, ifindex: uplink.ifindex}}
			ends.reason, ends.event = truncatedInside(tun.name, n), dropEvent{outer: tun.node}
			padded.reason, padded.event = ends.reason, ends.event
			if padded.reason == bpf.DatapathReasonPASS_NOT_OURS { // with the padding there is a port to read
				padded.reason = bpf.DatapathReasonDROP_TUNNEL_MALFORMED
			}
			t.Run(ends.name, func(t *testing.T) { check(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, ends) })
			t.Run(padded.name, func(t *testing.T) { check(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, padded) })
		}
	}
}

// truncatedInside is the reason for an outer packet of n bytes with more cut off.
func truncatedInside(encap string, n int) bpf.DatapathReason {
	switch {
	case encap != "ipip" && n < ipv4Len+udpLen:
		return bpf.DatapathReasonPASS_NOT_OURS // no port
	case encap == "vxlan" && n < ipv4Len+udpLen+vxlanLen+etherLen:
		return bpf.DatapathReasonDROP_TUNNEL_MALFORMED
	case encap == "ipip" && n < 2*ipv4Len:
		return bpf.DatapathReasonPASS_MALFORMED
	}
	return bpf.DatapathReasonDROP_INNER_MALFORMED
}

// TestLengths: a valid packet of every size up to the path's, by each encapsulation, there and back.
func TestLengths(t *testing.T) {
	for _, r := range remotes {
		for size := ipv4Len + udpLen; size <= r.mtu; size += 1 + size/97 {
			d := datagram{src: c1, dst: r.container}.sized(size)
			in := fromC1(d)
			check(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, packetCase{
				in: in, reason: handedOnReason(r.node), out: handedOn(in.frame, r.node, d.hop(1).bytes()),
			})
		}
	}
	for _, tun := range tunnels {
		for size := ipv4Len + udpLen; size <= 1450; size += 1 + size/97 {
			d := datagram{src: tun.container, dst: c1}.sized(size)
			check(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, packetCase{
				in:     arrives(from(tun.node, d.bytes()).bytes()),
				reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(d.hop(1).bytes()),
			})
		}
	}
}
