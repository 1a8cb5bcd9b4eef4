// SPDX-License-Identifier: Apache-2.0

package udptun

import "encoding/binary"

// The ECN field, the two low bits of the TOS octet (RFC 3168, 5).
const (
	ecnNotECT = 0
	ecnECT1   = 1
	ecnECT0   = 2
	ecnCE     = 3
	ecnMask   = 3
)

// outerTOS is the outer header's TOS octet for an inner packet: its ECN field, CE
// as ECT(0), and no DSCP. As the ebpf dataplane sends it, after
// INET_ECN_encapsulate() of include/net/inet_ecn.h.
func (p packet) outerTOS() byte {
	if ecn := p[offTOS] & ecnMask; ecn != ecnCE {
		return ecn
	}
	return ecnECT0
}

// MergeECN brings what the underlay marked into an inner packet of either version, in place. It
// reports false where the packet has to be dropped, as mergedECN does, or is none.
func MergeECN(inner []byte, outerTOS byte) bool {
	const ipv6HeaderLen = 40 // RFC 8200, 3; the traffic class is in two octets
	switch {
	case len(inner) >= headerLen && isIPv4(inner):
		return packet(inner).mergeECN(outerTOS)
	case len(inner) >= ipv6HeaderLen && inner[0]>>4 == 6:
		ecn, ok := mergedECN(inner[1]>>4&ecnMask, outerTOS&ecnMask)
		inner[1] = inner[1]&^(ecnMask<<4) | ecn<<4
		return ok
	}
	return false
}

// mergeECN brings what the underlay marked into the inner packet, as mergedECN has it.
func (p packet) mergeECN(outerTOS byte) bool {
	inner := p[offTOS] & ecnMask
	ecn, ok := mergedECN(inner, outerTOS&ecnMask)
	if ecn != inner {
		p.setWord(0, binary.BigEndian.Uint16(p)&^ecnMask|uint16(ecn))
	}
	return ok
}

// mergedECN is the inner packet's ECN field once the outer header is gone (RFC 6040, 4.2, as
// __INET_ECN_decapsulate() has it); false where the packet has to be dropped: congestion was
// marked on a flow that would not understand.
func mergedECN(inner, outer byte) (byte, bool) {
	switch {
	case inner == ecnNotECT:
		return inner, outer != ecnCE
	case outer == ecnCE, outer == ecnECT1 && inner == ecnECT0:
		return outer, true
	}
	return inner, true
}
