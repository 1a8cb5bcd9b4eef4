// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"encoding/binary"
	"net/netip"
)

// Offsets and lengths in an IPv4 header, bytes (RFC 791, 3.1).
const (
	headerLen = 20 // without options

	offTOS      = 1
	offTotalLen = 2
	offFragment = 6
	offTTL      = 8
	offProtocol = 9
	offChecksum = 10
	offSource   = 12
	offDest     = 16
)

const fragmentOffsetMask = 0x1fff

// packet is a whole IPv4 packet that wellFormed has looked at.
type packet []byte

func (p packet) headerLen() int          { return int(p[0]&0xf) * 4 }
func (p packet) payload() []byte         { return p[p.headerLen():] }
func (p packet) source() netip.Addr      { return netip.AddrFrom4([4]byte(p[offSource:])) }
func (p packet) destination() netip.Addr { return netip.AddrFrom4([4]byte(p[offDest:])) }

func (p packet) firstFragment() bool {
	return binary.BigEndian.Uint16(p[offFragment:])&fragmentOffsetMask == 0
}

func isIPv4(b []byte) bool { return len(b) > 0 && b[0]>>4 == 4 }

// wellFormed reports whether b is exactly one IPv4 packet, as ip_rcv_core() of
// net/ipv4/ip_input.c checks one, except that nothing may follow the packet: a
// datagram has no padding.
func wellFormed(b []byte) bool {
	if len(b) < headerLen || !isIPv4(b) {
		return false
	}
	p := packet(b)
	if p.headerLen() < headerLen || p.headerLen() > len(p) {
		return false
	}
	return int(binary.BigEndian.Uint16(p[offTotalLen:])) == len(p) && checksum(p[:p.headerLen()]) == 0
}

// takeHop takes one off the TTL. It reports false, and changes nothing, where
// the packet must go no further (RFC 1812, 5.3.1).
func (p packet) takeHop() bool {
	if p[offTTL] <= 1 {
		return false
	}
	p.setWord(offTTL, binary.BigEndian.Uint16(p[offTTL:])-0x100)
	return true
}

// setWord writes one of the header's 16-bit words and brings the checksum up to
// date (RFC 1624, equation 3).
func (p packet) setWord(off int, word uint16) {
	before := binary.BigEndian.Uint16(p[off:])
	binary.BigEndian.PutUint16(p[off:], word)
	sum := uint32(^binary.BigEndian.Uint16(p[offChecksum:])) + uint32(^before) + uint32(word)
	binary.BigEndian.PutUint16(p[offChecksum:], ^fold(sum))
}

// checksum is RFC 1071's, of b with its checksum field; 0 where that is right.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return ^fold(sum)
}

func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}
