// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
)

// header is a finished outer header.
type header struct {
	Src          netip.Addr `json:"source"`
	Dst          netip.Addr `json:"destination"`
	TOS          uint8      `json:"tos"`
	TTL          uint8      `json:"ttl"` // 0 where the packet's is inherited
	DontFragment bool       `json:"dont_fragment"`
	Protocol     uint8      `json:"protocol"` // IANA's number
	UDP          *udp       `json:"udp,omitempty"`
	VXLAN        *vxlan     `json:"vxlan,omitempty"`
}

type udp struct {
	Src uint16 `json:"source_port"` // 0 where it comes from the packet's flow
	Dst uint16 `json:"destination_port"`
}

type vxlan struct {
	VNI    uint32 `json:"vni"`
	SrcMAC string `json:"source_mac"`
	DstMAC string `json:"destination_mac"`
}

// Lengths of the parts of an outer header.
const (
	ipv4Len  = 20 // RFC 791, without options
	ipv6Len  = 40 // RFC 8200
	udpLen   = 8  // RFC 768
	vxlanLen = 8  // RFC 7348, 5
	ethLen   = 14
)

// decodeHeader reads a header as struct host in bpf/include/types.h describes
// it; nil where it is not what its encapsulation calls for.
func decodeHeader(encap bpf.DatapathEncap, raw []byte) *header {
	h, raw := decodeIP(raw)
	want, known := map[bpf.DatapathEncap]int{
		bpf.DatapathEncapENCAP_IPIP:  0,
		bpf.DatapathEncapENCAP_UDP:   udpLen,
		bpf.DatapathEncapENCAP_VXLAN: udpLen + vxlanLen + ethLen,
	}[encap]
	if h == nil || !known || len(raw) != want {
		return nil
	}
	if len(raw) >= udpLen {
		h.UDP = &udp{binary.BigEndian.Uint16(raw), binary.BigEndian.Uint16(raw[2:])}
		raw = raw[udpLen:]
	}
	if len(raw) == vxlanLen+ethLen {
		h.VXLAN = &vxlan{
			VNI:    binary.BigEndian.Uint32(raw[4:]) >> 8,
			DstMAC: net.HardwareAddr(raw[vxlanLen : vxlanLen+6]).String(),
			SrcMAC: net.HardwareAddr(raw[vxlanLen+6 : vxlanLen+12]).String(),
		}
	}
	return h
}

// decodeIP reads the IP header and returns what follows it; nil if there is none.
func decodeIP(raw []byte) (*header, []byte) {
	switch {
	case len(raw) >= ipv4Len && raw[0] == 4<<4|ipv4Len/4:
		return &header{
			Src:          netip.AddrFrom4([4]byte(raw[12:])),
			Dst:          netip.AddrFrom4([4]byte(raw[16:])),
			TOS:          raw[1],
			TTL:          raw[8],
			DontFragment: raw[6]&0x40 != 0,
			Protocol:     raw[9],
		}, raw[ipv4Len:]
	case len(raw) >= ipv6Len && raw[0]>>4 == 6:
		return &header{
			Src:      netip.AddrFrom16([16]byte(raw[8:])),
			Dst:      netip.AddrFrom16([16]byte(raw[24:])),
			TOS:      raw[0]<<4 | raw[1]>>4,
			TTL:      raw[7],
			Protocol: raw[6],
		}, raw[ipv6Len:]
	}
	return nil, nil
}

// words is the header as tcpdump would have it. flags are the host's.
func (h *header) words(flags []string) string {
	parts := []string{fmt.Sprintf("%s > %s", h.Src, h.Dst)}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case h.UDP != nil && slices.Contains(flags, "source_port"):
		add("UDP flow > %d", h.UDP.Dst)
	case h.UDP != nil:
		add("UDP %d > %d", h.UDP.Src, h.UDP.Dst)
	case h.Protocol == unix.IPPROTO_IPIP:
		add("IPIP")
	case h.Protocol == unix.IPPROTO_IPV6:
		add("IPv6 in IP")
	default:
		add("protocol %d", h.Protocol)
	}
	if h.VXLAN != nil {
		add("VNI %d", h.VXLAN.VNI)
		add("%s > %s", h.VXLAN.SrcMAC, h.VXLAN.DstMAC)
	}
	if h.TOS != 0 {
		add("tos %#x", h.TOS)
	}
	if slices.Contains(flags, "inherit_ttl") {
		add("ttl inherited")
	} else {
		add("ttl %d", h.TTL)
	}
	switch {
	case h.DontFragment:
		add("DF")
	case slices.Contains(flags, "inherit_df") && h.Src.Is4():
		add("DF inherited")
	}
	return strings.Join(parts, ", ")
}
