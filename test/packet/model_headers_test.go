// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Ethernet, IPv4 and IPv6, read from bytes. Every reader expects that its bytes are there.

// Lengths of headers, in bytes; IPv4's without options.
const etherLen, ipv4Len, ipv6Len, udpLen, vxlanLen, fragmentLen = 14, 20, 40, 8, 8, 8

// Protocol numbers and next headers, as IANA's "Assigned Internet Protocol Numbers" has them.
const (
	protocolHopByHop = 0
	protocolICMP     = 1
	protocolIPIP     = 4
	protocolTCP      = 6
	protocolUDP      = 17
	protocolIPv6     = 41
	protocolRouting  = 43
	protocolFragment = 44
	protocolICMPv6   = 58
	protocolOptions  = 60 // destination options
	protocolSCTP     = 132
)

// version is one of IP. Zero is none.
type version uint8

const (
	ipv4 version = 4
	ipv6 version = 6
)

func versionOf(a netip.Addr) version {
	if a.Is6() {
		return ipv6
	}
	return ipv4
}

// headerLen is that of a header without options.
func (v version) headerLen() int {
	if v == ipv6 {
		return ipv6Len
	}
	return ipv4Len
}

func (v version) etherType() uint16 {
	if v == ipv6 {
		return 0x86dd
	}
	return 0x0800
}

// tunnelled is the protocol number of this version in IP (RFC 2003, RFC 4213).
func (v version) tunnelled() uint8 {
	if v == ipv6 {
		return protocolIPv6
	}
	return protocolIPIP
}

type ethernetHeader []byte

func (e ethernetHeader) dst() topology.MAC        { return topology.MAC(e[0:6]) }
func (e ethernetHeader) src() topology.MAC        { return topology.MAC(e[6:12]) }
func (e ethernetHeader) isGroup() bool            { return e[0]&1 != 0 }
func (e ethernetHeader) etherType() uint16        { return binary.BigEndian.Uint16(e[12:]) }
func (e ethernetHeader) setDst(m topology.MAC)    { copy(e[0:], m[:]) }
func (e ethernetHeader) setSrc(m topology.MAC)    { copy(e[6:], m[:]) }
func (e ethernetHeader) setEtherType(kind uint16) { binary.BigEndian.PutUint16(e[12:], kind) }

// ipHeader is a packet of the version that its first four bits say.
type ipHeader []byte

func (h ipHeader) version() version { return version(h[0] >> 4) }
func (h ipHeader) isV6() bool       { return h.version() == ipv6 }

// len is that of the header; IPv6's extension headers follow it.
func (h ipHeader) len() int {
	if h.isV6() {
		return ipv6Len
	}
	return int(h[0]&15) * 4
}

// totalLen is what the header says of the whole packet. A jumbogram says 0 (RFC 2675), which none is.
func (h ipHeader) totalLen() int {
	if h.isV6() {
		return ipv6Len + int(binary.BigEndian.Uint16(h[4:]))
	}
	return int(binary.BigEndian.Uint16(h[2:]))
}

// tos is the type of service, or the traffic class: DSCP and ECN.
func (h ipHeader) tos() uint8 {
	if h.isV6() {
		return h[0]<<4 | h[1]>>4
	}
	return h[1]
}

// setTOS keeps the checksum as right as it was.
func (h ipHeader) setTOS(tos uint8) {
	if h.isV6() {
		h[0], h[1] = h[0]&0xf0|tos>>4, h[1]&0x0f|tos<<4
		return
	}
	h.change(func() { h[1] = tos })
}

func (h ipHeader) protocol() uint8 {
	if h.isV6() {
		return h[6]
	}
	return h[9]
}

// ttl is the time to live, or the hop limit.
func (h ipHeader) ttl() uint8 {
	if h.isV6() {
		return h[7]
	}
	return h[8]
}

// hop is what a router does to a header.
func (h ipHeader) hop() {
	if h.isV6() {
		h[7]--
		return
	}
	h.change(func() { h[8]-- })
}

func (h ipHeader) src() netip.Addr {
	if h.isV6() {
		return netip.AddrFrom16([16]byte(h[8:24]))
	}
	return netip.AddrFrom4([4]byte(h[12:16]))
}

func (h ipHeader) dst() netip.Addr {
	if h.isV6() {
		return ipv6.dst(h)
	}
	return ipv4.dst(h)
}

// dst is the destination of what is taken for a header of that version.
func (v version) dst(b []byte) netip.Addr {
	if v == ipv6 {
		return netip.AddrFrom16([16]byte(b[24:40]))
	}
	return netip.AddrFrom4([4]byte(b[16:20]))
}

// addresses are both, as they stand in the header.
func (h ipHeader) addresses() []byte {
	if h.isV6() {
		return h[8:40]
	}
	return h[12:20]
}

// hasOptions: options that a router has to read.
func (h ipHeader) hasOptions() bool {
	if h.isV6() {
		return h.protocol() == protocolHopByHop
	}
	return h.len() > ipv4Len
}

func (h ipHeader) isFragment() bool {
	if h.isV6() {
		return h.protocol() == protocolFragment
	}
	return binary.BigEndian.Uint16(h[6:])&0x3fff != 0
}

func (h ipHeader) dontFrag() bool { return !h.isV6() && h[6]&0x40 != 0 }

// plausibleStart is plausible for a packet of which there are no more bytes than a header need be there,
// and room for so many in all.
func plausibleStart(v version, b []byte, room int) bool {
	if len(b) < v.headerLen() || version(b[0]>>4) != v {
		return false
	}
	h := ipHeader(b)
	if v == ipv6 && (h.src().Is4In6() || h.dst().Is4In6()) { // RFC 4291, 2.5.5.2: on no wire
		return false
	}
	if v == ipv4 && !h.hasOptions() && !h.checksumOK() {
		return false
	}
	return h.len() >= v.headerLen() && h.totalLen() >= h.len() && h.totalLen() <= room
}

// plausible says whether b starts with a header of that version whose lengths agree with each other and
// with the bytes there are, and whose checksum is right: the checks of the kernel's ip_rcv_core() and ip6_rcv_core().
func plausible(v version, b []byte) bool { return plausibleStart(v, b, len(b)) }

// internetSum is RFC 1071's sum, not inverted. Of several parts all but the last have an even length.
func internetSum(parts ...[]byte) uint16 {
	sum := uint64(0)
	for _, b := range parts {
		for ; len(b) >= 4; b = b[4:] {
			sum += uint64(binary.BigEndian.Uint32(b))
		}
		for i, c := range b {
			sum += uint64(c) << (8 * (1 &^ i))
		}
	}
	return foldSum(sum)
}

func foldSum(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func onesAdd(numbers ...uint16) uint16 {
	sum := uint64(0)
	for _, n := range numbers {
		sum += uint64(n)
	}
	return foldSum(sum)
}

// checksumOK: IPv6 has none.
func (h ipHeader) checksumOK() bool { return h.isV6() || internetSum(h[:h.len()]) == 0xffff }

// change lets edit change an IPv4 header. A right checksum stays right, and a wrong one wrong by as
// much: the receiver, not the way, has to find out (RFC 1812, 4.2.2.5; RFC 1624).
func (h ipHeader) change(edit func()) {
	wrong := internetSum(h[:h.len()]) // 0xffff where it is right
	edit()
	h.setChecksum()
	if wrong == 0xffff {
		return
	}
	check := onesAdd(binary.BigEndian.Uint16(h[10:]), wrong)
	if check == 0xffff {
		check = 0 // the same number; equation 3 of RFC 1624 gives this one
	}
	binary.BigEndian.PutUint16(h[10:], check)
}

// setChecksum: IPv6 has none.
func (h ipHeader) setChecksum() {
	if h.isV6() {
		return
	}
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^internetSum(h[:h.len()]))
}

// pseudoSum is that of the header that transport checksums cover besides (RFC 768; RFC 8200, 8.1).
func (h ipHeader) pseudoSum(protocol uint8, length int) uint16 {
	return onesAdd(internetSum(h.addresses()), uint16(protocol), uint16(length))
}
