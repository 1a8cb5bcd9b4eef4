// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// udpSum is what can be said of a tunnel's UDP checksum by its headers.
type udpSum int

const (
	sumRight   udpSum = iota // or there is none
	sumPending               // not made yet: the pseudo header's alone
	sumUnknown               // only reading all of the packet would tell
	sumWrong                 // or the inner packet's is
)

// udpSum: the kernel's socket reads all of the packet. Here the inner packet's own checksum is taken
// to be right, for who gets that will see; so what it covers has a sum that is known: zero, with the
// pseudo header.
func (t tunnel) udpSum(inner ipv4Header) udpSum {
	payload := t.outer[ipv4Len:t.outer.totalLen()]
	if t.outer.protocol() != protocolUDP || binary.BigEndian.Uint16(payload[6:]) == 0 {
		return sumRight
	}
	if inner.totalLen() != len(t.inner) {
		return sumUnknown
	}
	// RFC 768; CHECKSUM_PARTIAL, where no NIC has summed yet, has it with nothing behind it.
	pseudo := join(t.outer[12:20], []byte{0, protocolUDP}, payload[4:6])
	if binary.BigEndian.Uint16(payload[6:]) == internetSum(pseudo) {
		return sumPending
	}
	covered := inner.covered()
	if covered == nil {
		return sumUnknown
	}
	headers := payload[:len(payload)-inner.totalLen()]
	if internetSum(join(pseudo, headers, inner[:ipv4Len], covered)) == 0xffff {
		return sumRight
	}
	return sumWrong
}

// covered is a stand-in for what the checksum of the packet covers, with the same sum if that is
// right: the complement of the pseudo header. Nil where the packet has none.
func (h ipv4Header) covered() []byte {
	length := h.totalLen() - ipv4Len
	if h.isFragment() || h.hasOptions() {
		return nil
	}
	pseudo := join(h[12:20], []byte{0, h.protocol()}, binary.BigEndian.AppendUint16(nil, uint16(length)))
	switch h.protocol() {
	case protocolTCP:
		if length < 20 {
			return nil
		}
	case protocolUDP:
		udp := h[ipv4Len:]
		if len(udp) < udpLen || int(binary.BigEndian.Uint16(udp[4:])) != length || binary.BigEndian.Uint16(udp[6:]) == 0 {
			return nil
		}
	case protocolICMP:
		if length < 8 {
			return nil
		}
		return []byte{} // without a pseudo header
	default:
		return nil
	}
	return binary.BigEndian.AppendUint16(nil, ^internetSum(pseudo))
}
