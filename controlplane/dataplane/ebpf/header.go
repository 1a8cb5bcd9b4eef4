// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// Lengths of the parts of an outer header, in bytes.
const (
	ipv4Len = 20 // RFC 791, without options
	udpLen  = 8  // RFC 768
	ethLen  = 14
)

// defaultTTL is of packets whose tunnel does not inherit the inner one
// (net.ipv4.ip_default_ttl, which the kernel's vxlan device uses).
const defaultTTL = 64

const dontFragment = 0x4000 // RFC 791, 3.1: the DF bit in the flags and offset word

// encapL2 is BPF_F_ADJ_ROOM_ENCAP_L2 of include/uapi/linux/bpf.h: bytes of inner Ethernet header.
func encapL2(bytes uint64) uint64 { return bytes << 56 }

// mode is an encapsulation as data for the datapath.
type mode struct {
	encap    bpf.DatapathEncap
	protocol byte
	fragOff  uint16
	ttl      byte
	flags    bpf.DatapathHostFlags
	adjust   uint64
	// body is what follows the outer IP header; UDP lengths are left zero.
	body func(topology.Self, topology.Peer) []byte
}

// modes say what the kernel's own devices put on the wire as flannel sets them
// up: vxlan without DF and with TTL 64 (pkg/backend/vxlan/device.go), ipip with
// both inherited (pkg/backend/ipip/ipip.go: PMtuDisc and Ttl 0), udp as any UDP
// socket sends (pkg/backend/udp/proxy_amd64.c).
var modes = map[topology.Encap]mode{
	topology.EncapVXLAN: {
		encap: bpf.DatapathEncapENCAP_VXLAN, protocol: unix.IPPROTO_UDP, ttl: defaultTTL,
		flags: bpf.DatapathHostFlagsHOST_SOURCE_PORT,
		adjust: unix.BPF_F_ADJ_ROOM_FIXED_GSO | unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			unix.BPF_F_ADJ_ROOM_ENCAP_L2_ETH | encapL2(ethLen),
		body: vxlanBody,
	},
	topology.EncapIPIP: {
		encap: bpf.DatapathEncapENCAP_IPIP, protocol: unix.IPPROTO_IPIP,
		flags:  bpf.DatapathHostFlagsHOST_INHERIT_TTL | bpf.DatapathHostFlagsHOST_INHERIT_DF,
		adjust: unix.BPF_F_ADJ_ROOM_FIXED_GSO | unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
		body:   func(topology.Self, topology.Peer) []byte { return nil },
	},
	topology.EncapUDP: {
		encap: bpf.DatapathEncapENCAP_UDP, protocol: unix.IPPROTO_UDP, ttl: defaultTTL, fragOff: dontFragment,
		adjust: unix.BPF_F_ADJ_ROOM_FIXED_GSO | unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
		body:   func(s topology.Self, _ topology.Peer) []byte { return udpHeader(s.Port, s.Port) },
	},
}

// hostEntry is the finished entry of the hosts map for a peer.
func hostEntry(self topology.Self, p topology.Peer) (maps.Host, error) {
	for _, a := range []netip.Addr{self.Node, p.Node, p.Path.NextHop} {
		if !a.Is4() {
			return maps.Host{}, fmt.Errorf("send by way of %s: only an IPv4 underlay is supported", a)
		}
	}
	h := maps.Host{
		Node: p.Node, NextHop: p.Path.NextHop, Ifindex: uint32(p.Path.Ifindex),
		MTU: uint16(min(max(self.MTUTo(p), 0), math.MaxUint16)),
	}
	if p.Encap == topology.EncapNone {
		return h, nil
	}
	m, ok := modes[p.Encap]
	if !ok {
		return maps.Host{}, fmt.Errorf("build outer header: unknown encapsulation %q", p.Encap)
	}
	header := append(ipv4Header(m, self.Node, p.Node), m.body(self, p)...)
	h.Encap, h.Flags, h.Adjust = m.encap, m.flags, m.adjust
	h.HeaderLen = uint8(copy(h.Header[:], header))
	return h, nil
}

// ipv4Header is RFC 791's with zero length and ID; where its checksum will
// stand it holds the sum of the rest, folded but not inverted, in memory order
// of the words, for the datapath to add to.
func ipv4Header(m mode, src, dst netip.Addr) []byte {
	h := make([]byte, ipv4Len)
	h[0] = 4<<4 | ipv4Len/4
	binary.BigEndian.PutUint16(h[6:], m.fragOff)
	h[8], h[9] = m.ttl, m.protocol
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16 // RFC 1071: end-around carry
	}
	binary.BigEndian.PutUint16(h[10:], uint16(sum))
	return h
}

func udpHeader(src, dst uint16) []byte {
	h := make([]byte, udpLen) // checksum zero: none (RFC 768; RFC 7348, 5)
	binary.BigEndian.PutUint16(h, src)
	binary.BigEndian.PutUint16(h[2:], dst)
	return h
}

func vxlanBody(self topology.Self, p topology.Peer) []byte {
	h := udpHeader(0, self.Port)
	h = append(h, 0x08, 0, 0, 0) // I flag
	h = binary.BigEndian.AppendUint32(h, self.VNI<<8)
	h = append(h, p.VTEP.MAC[:]...)
	h = append(h, self.VTEP.MAC[:]...)
	return binary.BigEndian.AppendUint16(h, unix.ETH_P_IP)
}
