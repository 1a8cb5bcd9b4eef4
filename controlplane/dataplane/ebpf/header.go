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
	ipv6Len = 40 // RFC 8200
	udpLen  = 8  // RFC 768
	ethLen  = 14
)

// defaultTTL is of packets whose tunnel does not inherit the inner one
// (net.ipv4.ip_default_ttl, which the kernel's vxlan device uses).
const defaultTTL = 64

const dontFragment = 0x4000 // RFC 791, 3.1: the DF bit in the flags and offset word

// encapL2 is BPF_F_ADJ_ROOM_ENCAP_L2 of include/uapi/linux/bpf.h: bytes of inner Ethernet header.
func encapL2(bytes uint64) uint64 { return bytes << 56 }

// mode is an encapsulation as data for the datapath, whatever the family of its outer header.
type mode struct {
	encap   bpf.DatapathEncap
	fragOff uint16 // of an outer IPv4 header
	ttl     byte
	flags   bpf.DatapathHostFlags
	flags6  bpf.DatapathHostFlags // besides, of an outer IPv6 header
	adjust  uint64
	// body is what follows the outer IP header; UDP lengths are left zero.
	body func(topology.Self, topology.Peer) []byte
}

// modes say what the kernel's own devices put on the wire as flannel sets them
// up: vxlan without DF and with TTL 64 (pkg/backend/vxlan/device.go), over IPv6
// with a checksum and without a flow label (drivers/net/vxlan/vxlan_core.c: no
// VXLAN_F_UDP_ZERO_CSUM6_TX, cfg.label 0); ipip with both inherited
// (pkg/backend/ipip/ipip.go: PMtuDisc and Ttl 0), over IPv6 with a flow label
// (net/ipv6/ip6_tunnel.c, ip6_tnl_xmit); udp as any UDP socket sends
// (pkg/backend/udp/proxy_amd64.c).
var modes = map[topology.Encap]mode{
	topology.EncapVXLAN: {
		encap: bpf.DatapathEncapENCAP_VXLAN, ttl: defaultTTL,
		flags: bpf.DatapathHostFlagsHOST_SOURCE_PORT, flags6: bpf.DatapathHostFlagsHOST_CHECKSUM,
		adjust: unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP | unix.BPF_F_ADJ_ROOM_ENCAP_L2_ETH | encapL2(ethLen),
		body:   vxlanBody,
	},
	topology.EncapIPIP: {
		encap:  bpf.DatapathEncapENCAP_IPIP,
		flags:  bpf.DatapathHostFlagsHOST_INHERIT_TTL | bpf.DatapathHostFlagsHOST_INHERIT_DF,
		flags6: bpf.DatapathHostFlagsHOST_FLOW_LABEL,
		body:   func(topology.Self, topology.Peer) []byte { return nil },
	},
	topology.EncapUDP: {
		encap: bpf.DatapathEncapENCAP_UDP, ttl: defaultTTL, fragOff: dontFragment,
		adjust: unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
		body:   func(s topology.Self, _ topology.Peer) []byte { return udpHeader(s.Port, s.Port) },
	},
}

// selfEntry is this node's own, by which nothing is sent.
func selfEntry(self topology.Self) maps.Host {
	node := self.Node
	if !node.IsValid() {
		node = self.Other
	}
	return maps.Host{Node: node, NextHop: node, Ifindex: uint32(self.Uplink)}
}

// hostEntry is the finished entry of the hosts map for a peer.
func hostEntry(self topology.Self, p topology.Peer) (maps.Host, error) {
	from := self.Source(p.Node)
	if p.Encap != topology.EncapNone && !from.IsValid() {
		return maps.Host{}, fmt.Errorf("send to %s: this node has no address of that family", p.Node)
	}
	if p.Node.Is4() != p.Path.NextHop.Is4() {
		return maps.Host{}, fmt.Errorf("send to %s by way of %s: not of one address family", p.Node, p.Path.NextHop)
	}
	h := maps.Host{
		Node: p.Node, NextHop: p.Path.NextHop, Ifindex: uint32(p.Path.Ifindex),
		MTU: uint16(min(max(self.MTUTo(p), 0), math.MaxUint16)),
	}
	if p.Node.Is6() {
		h.Flags |= bpf.DatapathHostFlagsHOST_IPV6
	}
	if p.Path.Ethernet {
		h.Flags |= bpf.DatapathHostFlagsHOST_ETHERNET
	}
	if p.Encap == topology.EncapNone {
		return h, nil
	}
	m, ok := modes[p.Encap]
	if !ok {
		return maps.Host{}, fmt.Errorf("build outer header: unknown encapsulation %q", p.Encap)
	}
	h.Encap, h.Flags = m.encap, h.Flags|m.flags
	h.Adjust = unix.BPF_F_ADJ_ROOM_FIXED_GSO | m.adjust
	body := m.body(self, p)
	var ip []byte
	if p.Node.Is4() {
		h.Adjust |= unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
		ip = ipv4Header(protocol(p), m.ttl, fragOff(m, p), from, p.Node)
	} else {
		h.Adjust |= unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
		h.Flags |= m.flags6
		if p.ZeroChecksum {
			h.Flags &^= bpf.DatapathHostFlagsHOST_CHECKSUM
		}
		ip = ipv6Header(protocol(p), m.ttl, from, p.Node)
	}
	if h.Flags&bpf.DatapathHostFlagsHOST_CHECKSUM != 0 {
		pseudo := append([]byte{0, protocol(p)}, ip[8:]...) // RFC 8200, 8.1, but for the length
		binary.BigEndian.PutUint16(body[6:], internetSum(append(pseudo, body...)))
	}
	h.HeaderLen = uint8(copy(h.Header[:], append(ip, body...)))
	return h, nil
}

// protocol is that of what follows the outer IP header.
func protocol(p topology.Peer) byte {
	switch {
	case p.Encap != topology.EncapIPIP:
		return unix.IPPROTO_UDP
	case p.Subnet.Addr().Is4():
		return unix.IPPROTO_IPIP
	}
	return unix.IPPROTO_IPV6
}

// fragOff is that of an outer IPv4 header. IPv6 inside is never cut, nor is what carries it
// (net/ipv6/sit.c with its default, pmtudisc).
func fragOff(m mode, p topology.Peer) uint16 {
	if p.Subnet.Addr().Is6() {
		return dontFragment
	}
	return m.fragOff
}

// ipv4Header is RFC 791's with zero length and ID; where its checksum will
// stand it holds the sum of the rest, for the datapath to add to.
func ipv4Header(protocol, ttl byte, fragOff uint16, src, dst netip.Addr) []byte {
	h := make([]byte, ipv4Len)
	h[0] = 4<<4 | ipv4Len/4
	binary.BigEndian.PutUint16(h[6:], fragOff)
	h[8], h[9] = ttl, protocol
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], internetSum(h))
	return h
}

// ipv6Header is RFC 8200's with zero length and flow label.
func ipv6Header(protocol, hopLimit byte, src, dst netip.Addr) []byte {
	h := make([]byte, ipv6Len)
	h[0] = 6 << 4
	h[6], h[7] = protocol, hopLimit
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return h
}

// internetSum is RFC 1071's sum of an even number of bytes, folded but not inverted.
func internetSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16 // end-around carry
	}
	return uint16(sum)
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
	if p.Subnet.Addr().Is4() {
		return binary.BigEndian.AppendUint16(h, unix.ETH_P_IP)
	}
	return binary.BigEndian.AppendUint16(h, unix.ETH_P_IPV6)
}
