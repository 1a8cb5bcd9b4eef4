// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// datagram is an IPv4 packet to build: by default UDP of 64 bytes, from port 40000 to 53.
type datagram struct {
	src, dst  netip.Addr
	ttl       uint8 // 0: 64; see ttlZero
	tos       uint8
	id        uint16
	flags     layers.IPv4Flag
	offset    uint16 // of a fragment, in 8 bytes
	options   []layers.IPv4Option
	transport gopacket.SerializableLayer
	payload   []byte
	ttlZero   bool
}

var serialize = gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}

// build serializes the layers, with all lengths and checksums right.
func build(all ...gopacket.SerializableLayer) []byte {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, serialize, all...); err != nil {
		panic(fmt.Sprintf("serialize packet: %v", err)) // a mistake in a test's table
	}
	return bytes.Clone(buffer.Bytes())
}

func (d datagram) header() *layers.IPv4 {
	ip := &layers.IPv4{
		Version: 4, TOS: d.tos, Id: d.id, Flags: d.flags, FragOffset: d.offset, TTL: d.ttl,
		Protocol: layers.IPProtocolUDP, SrcIP: d.src.AsSlice(), DstIP: d.dst.AsSlice(), Options: d.options,
	}
	if d.ttl == 0 && !d.ttlZero {
		ip.TTL = 64
	}
	return ip
}

// bytes is the IP packet.
func (d datagram) bytes() []byte {
	ip, transport := d.header(), d.transport
	if transport == nil {
		transport = &layers.UDP{SrcPort: 40000, DstPort: 53}
	}
	switch l4 := transport.(type) {
	case *layers.UDP:
		_ = l4.SetNetworkLayerForChecksum(ip) // of IPv4 it takes any
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		_ = l4.SetNetworkLayerForChecksum(ip)
	case *layers.ICMPv4:
		ip.Protocol = layers.IPProtocolICMPv4
	case *layers.SCTP:
		ip.Protocol = layers.IPProtocolSCTP
	}
	all := []gopacket.SerializableLayer{ip, transport, gopacket.Payload(d.body())}
	if d.offset != 0 { // no transport header in a later fragment
		all = []gopacket.SerializableLayer{ip, gopacket.Payload(d.body())}
	}
	return build(all...)
}

func (d datagram) body() []byte {
	if d.payload != nil {
		return d.payload
	}
	return pattern(64)
}

// pattern is n bytes that are all different from their neighbours.
func pattern(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i*7 + 1)
	}
	return out
}

// sized is the datagram with the payload that makes its UDP packet n bytes long.
func (d datagram) sized(n int) datagram {
	d.payload = pattern(n - ipv4Len - udpLen)
	return d
}

// hop is the datagram after n more routers.
func (d datagram) hop(n uint8) datagram {
	d.ttl = d.header().TTL - n
	d.ttlZero = d.ttl == 0
	return d
}

func (d datagram) withTTL(ttl uint8) datagram {
	d.ttl, d.ttlZero = ttl, ttl == 0
	return d
}

func (d datagram) withTOS(tos uint8) datagram {
	d.tos = tos
	return d
}

func ethernet(dst, src topology.MAC, payload []byte) []byte {
	return etherType(dst, src, layers.EthernetTypeIPv4, payload)
}

// etherType is a frame, without the padding that gopacket adds to short ones.
func etherType(dst, src topology.MAC, kind layers.EthernetType, payload []byte) []byte {
	return join(dst[:], src[:], binary.BigEndian.AppendUint16(nil, uint16(kind)), payload)
}

// tunnelled is a packet in one of the encapsulations, outer IP header and on: as a peer sends it, and
// as it is expected from us. What the encapsulation has no use for is ignored.
type tunnelled struct {
	encap            bpf.DatapathEncap
	src, dst         netip.Addr
	ttl, tos         uint8
	flags            layers.IPv4Flag
	offset           uint16
	options          []layers.IPv4Option
	srcPort, dstPort uint16
	checksum         bool // a UDP checksum, which VXLAN may do without
	vni              uint32
	frameDst         topology.MAC // of VXLAN's inner frame
	frameSrc         topology.MAC
	inner            []byte
}

func (t tunnelled) bytes() []byte {
	ip := &layers.IPv4{
		Version: 4, TOS: t.tos, TTL: t.ttl, Flags: t.flags, FragOffset: t.offset, Options: t.options,
		Protocol: layers.IPProtocolUDP, SrcIP: t.src.AsSlice(), DstIP: t.dst.AsSlice(),
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(t.srcPort), DstPort: layers.UDPPort(t.dstPort)}
	if t.encap == bpf.DatapathEncapENCAP_IPIP {
		ip.Protocol = layers.IPProtocolIPv4
		return build(ip, gopacket.Payload(t.inner))
	}
	payload := t.inner
	if t.encap == bpf.DatapathEncapENCAP_VXLAN {
		frame := ethernet(t.frameDst, t.frameSrc, t.inner)
		payload = build(&layers.VXLAN{ValidIDFlag: true, VNI: t.vni}, gopacket.Payload(frame))
	}
	_ = udp.SetNetworkLayerForChecksum(ip)
	packet := build(ip, udp, gopacket.Payload(payload))
	if !t.checksum {
		clear(packet[ipHeader(packet).len()+6:][:2])
	}
	return packet
}

// to is what we send to a peer of the lab: flannel's and the kernel's formats, each spelled out.
// The entropy source port is 0 in it, as settle() leaves it.
func to(peer netip.Addr, inner []byte) tunnelled {
	t := tunnelled{src: node1, dst: peer, ttl: 64, inner: inner, tos: inner[1] & 3}
	if inner[1]&3 == 3 {
		t.tos = 2
	}
	innerDF := layers.IPv4Flag(inner[6]>>5) & layers.IPv4DontFragment
	switch peer {
	case node2:
		t.encap, t.dstPort, t.vni = bpf.DatapathEncapENCAP_VXLAN, 8472, 1
		t.frameDst, t.frameSrc = vtep2, overlay.mac
	case node3:
		t.encap, t.ttl, t.flags = bpf.DatapathEncapENCAP_IPIP, inner[8], innerDF
	case node4:
		t.encap, t.srcPort, t.dstPort, t.flags = bpf.DatapathEncapENCAP_UDP, 8285, 8285, layers.IPv4DontFragment
	case node6:
		t.encap, t.ttl, t.flags = bpf.DatapathEncapENCAP_IPIP, 17, layers.IPv4DontFragment
	case node7:
		t.encap, t.dstPort, t.vni, t.ttl = bpf.DatapathEncapENCAP_VXLAN, 8472, 1, 255
		t.frameDst, t.frameSrc = vtep7, overlay.mac
		t.flags, t.tos = layers.IPv4DontFragment, t.tos|0xb8
	}
	return t
}

// from is what a peer of the lab sends to us.
func from(peer netip.Addr, inner []byte) tunnelled {
	t := to(peer, inner)
	t.src, t.dst = peer, node1
	t.frameDst, t.frameSrc = overlay.mac, t.frameDst
	if t.srcPort == 0 {
		t.srcPort = 51000
	}
	return t
}

// patch is a change of some bytes of a packet.
type patch struct {
	at    int
	bytes []byte
}

func put8(at int, v uint8) patch { return patch{at, []byte{v}} }

func put16(at int, v uint16) patch { return patch{at, binary.BigEndian.AppendUint16(nil, v)} }

func put32(at int, v uint32) patch { return patch{at, binary.BigEndian.AppendUint32(nil, v)} }

func putAddr(at int, a netip.Addr) patch { return patch{at, net.IP(a.AsSlice())} }

// patched is a changed copy of a packet.
func patched(packet []byte, patches ...patch) []byte {
	packet = bytes.Clone(packet)
	for _, p := range patches {
		copy(packet[p.at:], p.bytes)
	}
	return packet
}

// resum is a copy of a frame whose first IP header has a right checksum.
func resum(frame []byte) []byte { return resumAt(frame, atIP) }

// resumAt is that for the IPv4 header at an offset, which may say that it is shorter than one is.
func resumAt(frame []byte, at int) []byte {
	frame = bytes.Clone(frame)
	h := ipHeader(frame[at:])
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^internetSum(h[:max(h.len(), ipv4Len)]))
	return frame
}

// Offsets in a frame.
const (
	atIP     = etherLen
	atTOS    = atIP + 1
	atLen    = atIP + 2
	atFrag   = atIP + 6
	atTTL    = atIP + 8
	atProto  = atIP + 9
	atCheck  = atIP + 10
	atSrc    = atIP + 12
	atDst    = atIP + 16
	atUDP    = atIP + ipv4Len
	atUDPDst = atUDP + 2
	atUDPLen = atUDP + 4
	atUDPSum = atUDP + 6
	atVXLAN  = atUDP + udpLen
	atVNI    = atVXLAN + 4
	atFrame  = atVXLAN + vxlanLen
)
