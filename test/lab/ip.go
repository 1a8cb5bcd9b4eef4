// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// IP is an IP header of either version, IPv6's with its extension headers.
type IP struct {
	Version    int
	Src, Dst   netip.Addr
	TTL        uint8 // or hop limit
	TOS        uint8 // or traffic class
	DF         bool  // false in IPv6, which nobody cuts
	MF         bool
	FragOffset int    // bytes
	ID         uint32 // of IPv6 in fragments alone
	FlowLabel  uint32 // 0 in IPv4
	Protocol   layers.IPProtocol
	Length     int    // of the packet, bytes; 0 in an IPv6 superpacket of 64 KiB and more
	Options    int    // bytes of options, or of extension headers
	Payload    []byte // behind options and extension headers, as far as it was captured and belongs to the packet
}

// IsFragment says whether the packet is a part of one.
func (ip IP) IsFragment() bool { return ip.MF || ip.FragOffset != 0 }

func ipOfV4(l *layers.IPv4) IP {
	return IP{
		Version: 4, Src: addrOf(l.SrcIP), Dst: addrOf(l.DstIP), TTL: l.TTL, TOS: l.TOS,
		DF: l.Flags&layers.IPv4DontFragment != 0, MF: l.Flags&layers.IPv4MoreFragments != 0,
		FragOffset: 8 * int(l.FragOffset), ID: uint32(l.Id),
		Protocol: l.Protocol, Length: int(l.Length), Options: 4*int(l.IHL) - 20, Payload: l.Payload,
	}
}

// ipOfV6 takes the extension headers off (RFC 8200, 4), those that a packet's
// payload can follow.
func ipOfV6(l *layers.IPv6) IP {
	ip := IP{
		Version: 6, Src: addrOf(l.SrcIP), Dst: addrOf(l.DstIP), TTL: l.HopLimit, TOS: l.TrafficClass, FlowLabel: l.FlowLabel,
		Protocol: l.NextHeader, Length: 40 + int(l.Length), Payload: l.Payload,
	}
	if l.Length == 0 { // a jumbogram, or a superpacket as long
		ip.Length = 0
	}
	for len(ip.Payload) >= 8 {
		b, n := ip.Payload, 8
		switch ip.Protocol {
		case layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Destination:
			n = 8 * (1 + int(b[1]))
		case layers.IPProtocolIPv6Fragment:
			at := binary.BigEndian.Uint16(b[2:])
			ip.FragOffset, ip.MF, ip.ID = int(at&^7), at&1 != 0, binary.BigEndian.Uint32(b[4:])
		default:
			return ip
		}
		if n > len(b) {
			return ip
		}
		ip.Protocol, ip.Payload, ip.Options = layers.IPProtocol(b[0]), b[n:], ip.Options+n
		if ip.FragOffset > 0 {
			return ip // what follows is no header
		}
	}
	return ip
}

// ipOf is the header of an IP layer.
func ipOf(layer gopacket.Layer) (ip IP, ok bool) {
	switch l := layer.(type) {
	case *layers.IPv4:
		return ipOfV4(l), true
	case *layers.IPv6:
		return ipOfV6(l), true
	}
	return IP{}, false
}

// String names a header as errors do.
func (ip IP) String() string {
	return fmt.Sprintf("IPv%d %s > %s %v", ip.Version, ip.Src, ip.Dst, ip.Protocol)
}

// pseudoHeader is what transport checksums cover beside the packet's payload
// (RFC 9293, 3.1; RFC 8200, 8.1).
func (ip IP) pseudoHeader() []byte {
	b := append(ip.Src.AsSlice(), ip.Dst.AsSlice()...)
	return append(binary.BigEndian.AppendUint32(b, uint32(ip.PayloadLength())), 0, 0, 0, byte(ip.Protocol))
}

// PayloadLength is that behind options and extension headers, bytes.
func (ip IP) PayloadLength() int {
	switch {
	case ip.Length == 0:
		return len(ip.Payload)
	case ip.Version == 6:
		return ip.Length - 40 - ip.Options
	}
	return ip.Length - 20 - ip.Options
}
