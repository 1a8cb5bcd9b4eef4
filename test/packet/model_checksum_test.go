// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// udpSum is what can be said of a tunnel's UDP checksum by its headers.
type udpSum int

const (
	sumRight   udpSum = iota // or there is none
	sumPartial               // of the pseudo header alone: a NIC is to finish it
	sumUnknown               // only reading all of the packet would tell
	sumWrong                 // or the inner packet's is
)

// udpSum: the kernel's socket reads all of the packet. Here the inner packet's own checksum is taken
// to be right, for who gets that will see; so what it covers has a sum that is known: zero, with the
// pseudo header.
func (t tunnel) udpSum(inner ipHeader) udpSum {
	if t.udp == nil || binary.BigEndian.Uint16(t.udp[6:]) == 0 {
		return sumRight
	}
	if inner.totalLen() != len(t.inner) {
		return sumUnknown
	}
	// RFC 768; CHECKSUM_PARTIAL, where no NIC has summed yet, has it with nothing behind it.
	pseudo := t.outer.pseudoSum(protocolUDP, len(t.udp))
	if binary.BigEndian.Uint16(t.udp[6:]) == pseudo {
		return sumPartial
	}
	covered, known := inner.coveredSum()
	if !known {
		return sumUnknown
	}
	headers := t.udp[:len(t.udp)-len(t.inner)]
	if onesAdd(pseudo, internetSum(headers), internetSum(inner[:inner.len()]), covered) == 0xffff {
		return sumRight
	}
	return sumWrong
}

// coveredSum is the sum of what the checksum of the packet covers, if that is right: the complement of the
// pseudo header's. Not known where the packet has none.
func (h ipHeader) coveredSum() (sum uint16, known bool) {
	length := h.totalLen() - h.len()
	if h.isFragment() || h.hasOptions() {
		return 0, false
	}
	switch h.protocol() {
	case protocolTCP:
		known = length >= 20
	case protocolUDP:
		udp := h[h.len():]
		known = length >= udpLen && int(binary.BigEndian.Uint16(udp[4:])) == length && binary.BigEndian.Uint16(udp[6:]) != 0
	case protocolICMP:
		return 0, !h.isV6() && length >= 8 // without a pseudo header
	case protocolICMPv6:
		known = h.isV6() && length >= 8
	}
	return ^h.pseudoSum(h.protocol(), length), known
}
