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

// MergeECN brings what the underlay marked into an inner packet, in place. It
// reports false where the packet has to be dropped, as mergeECN does, or is none of IPv4.
func MergeECN(inner []byte, outerTOS byte) bool {
	return len(inner) >= headerLen && isIPv4(inner) && packet(inner).mergeECN(outerTOS)
}

// mergeECN brings what the underlay marked into the inner packet (RFC 6040, 4.2,
// as __INET_ECN_decapsulate() has it). It reports false where the packet has to
// be dropped: congestion was marked on a flow that would not understand.
func (p packet) mergeECN(outerTOS byte) bool {
	inner, outer := p[offTOS]&ecnMask, outerTOS&ecnMask
	switch {
	case inner == ecnNotECT:
		return outer != ecnCE
	case outer == ecnCE, outer == ecnECT1 && inner == ecnECT0:
		p.setWord(0, binary.BigEndian.Uint16(p)&^ecnMask|uint16(outer))
	}
	return true
}
