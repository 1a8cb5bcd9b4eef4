// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// vxlanV6Zero is VXLAN to peers that take it without a UDP checksum.
var vxlanV6Zero = func() tunnelV6 { tun := vxlanV6; tun.zero = true; return tun }()

// TestIPv6ZeroChecksum: to a peer that takes packets without a UDP checksum all go by the fast path, and
// of one flow none otherwise than the next; to another peer those whose checksum cannot be reckoned are the kernel's.
func TestIPv6ZeroChecksum(t *testing.T) {
	plain := packetV6{src: containerV6, dst: remoteV6}
	udp := plain
	udp.next, udp.payload = protocolUDP, plain.udp(64)
	bare := udp
	bare.payload = patched(udp.payload, put16(6, 0))
	sctp := plain
	sctp.next, sctp.payload = protocolSCTP, join([]byte{0x9c, 0x40, 0, 80}, pattern(60))
	options := plain
	options.next, options.payload = protocolOptions, join([]byte{protocolUDP, 0}, padding, udp.payload)
	for _, c := range []struct {
		name   string
		packet packetV6
		summed bool // its checksum can be reckoned
	}{
		{"UDP", udp, true},
		{"UDP without a checksum", bare, false},
		{"first fragment", fragmentOf(plain, 0, true), false},
		{"later fragment", fragmentOf(plain, 9, false), false},
		{"SCTP", sctp, false},
		{"behind destination options", options, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := fromContainerV6(c.packet.bytes())
			c.packet.hops = 63
			program := bpf.DatapathProgramPROGRAM_FROM_CONTAINER
			m := vxlanV6Zero.machine(t)
			must(t, m.begin())
			verdict, out, err := m.run(program, in)
			must(t, err)
			m.checkCounters(t, program, packetCase{in: in, reason: bpf.DatapathReasonFORWARD_ENCAPSULATED})
			if verdict != actRedirect {
				t.Fatalf("verdict %d", verdict)
			}
			if port := binary.BigEndian.Uint16(out[etherLen+ipv6Len:]); port < 49152 {
				t.Errorf("source port %d", port)
			}
			compareFrames(t, "sent", vxlanV6Zero.sent(0, 63, c.packet.bytes()), patched(out, put16(etherLen+ipv6Len, 0)))
			want := caseV6{program: program, in: in, reason: bpf.DatapathReasonPASS_UDP_CHECKSUM}
			if c.summed {
				want.reason, want.out = bpf.DatapathReasonFORWARD_ENCAPSULATED, vxlanV6.sent(0, 63, c.packet.bytes())
			}
			vxlanV6.machine(t).checkV6(t, want)
		})
	}
}
