// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Ethernet and IPv4, read from bytes. Every reader expects that its bytes are there.

const etherLen, ipv4Len, udpLen, vxlanLen = 14, 20, 8, 8

const (
	protocolICMP = 1
	protocolIPIP = 4
	protocolTCP  = 6
	protocolUDP  = 17
	protocolSCTP = 132
)

type ethernetHeader []byte

func (e ethernetHeader) dst() topology.MAC { return topology.MAC(e[0:6]) }
func (e ethernetHeader) isIPv4() bool      { return binary.BigEndian.Uint16(e[12:]) == 0x0800 }
func (e ethernetHeader) setDst(m topology.MAC) {
	copy(e[0:], m[:])
}
func (e ethernetHeader) setSrc(m topology.MAC) {
	copy(e[6:], m[:])
}

type ipv4Header []byte

func (h ipv4Header) len() int         { return int(h[0]&15) * 4 }
func (h ipv4Header) totalLen() int    { return int(binary.BigEndian.Uint16(h[2:])) }
func (h ipv4Header) dontFrag() bool   { return h[6]&0x40 != 0 }
func (h ipv4Header) isFragment() bool { return binary.BigEndian.Uint16(h[6:])&0x3fff != 0 }
func (h ipv4Header) offset() uint16   { return binary.BigEndian.Uint16(h[6:]) & 0x1fff }
func (h ipv4Header) hasOptions() bool { return h.len() > ipv4Len }
func (h ipv4Header) ttl() uint8       { return h[8] }
func (h ipv4Header) protocol() uint8  { return h[9] }
func (h ipv4Header) src() netip.Addr  { return netip.AddrFrom4([4]byte(h[12:16])) }
func (h ipv4Header) dst() netip.Addr  { return netip.AddrFrom4([4]byte(h[16:20])) }

// plausibleStart is plausible for a packet whose end is not in b.
func plausibleStart(b []byte) bool {
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return false
	}
	h := ipv4Header(b)
	return h.len() >= ipv4Len && h.totalLen() >= h.len()
}

// plausible says whether b starts with an IPv4 header whose lengths agree with each other and with
// the bytes there are: the checks of the kernel's ip_rcv_core().
func plausible(b []byte) bool {
	return plausibleStart(b) && ipv4Header(b).totalLen() <= len(b)
}

// internetSum is RFC 1071's sum of a header, not inverted.
func internetSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

func (h ipv4Header) checksumOK() bool { return internetSum(h[:h.len()]) == 0xffff }

// change lets edit change the header. A right checksum stays right, and a wrong one wrong by as
// much: the receiver, not the way, has to find out (RFC 1812, 4.2.2.5; RFC 1624).
func (h ipv4Header) change(edit func()) {
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

func (h ipv4Header) setChecksum() {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^internetSum(h[:h.len()]))
}

func onesAdd(a, b uint16) uint16 {
	sum := uint32(a) + uint32(b)
	return uint16(sum>>16 + sum&0xffff)
}
