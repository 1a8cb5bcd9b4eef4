// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// insides is a packet inside a tunnel, some with bytes behind it.
func (c *crafter) insides(v version, src, dst netip.Addr) {
	c.packet(v, src, dst)
	if c.chance(24) {
		c.random(1 + c.IntN(20))
	}
}

// pathSizes are sizes of payloads that tell paths apart: those that fit each peer's path, and a byte around it.
var pathSizes = []int{1300, 1400, 1430, 1450, 1460, 1472, 1480, 1500}

// payload is how many bytes to add to a packet that began at that offset and is to get a header of that size yet.
func (c *crafter) payload(begin, header int) int {
	most := 24
	if c.super {
		most = 3
	}
	switch c.IntN(most) {
	case 0, 1:
		return max(0, oneOf(c, pathSizes...)-2+c.IntN(5)-(len(c.frame)-begin)-header)
	case 2:
		return c.IntN(3200)
	case 3:
		return c.IntN(3)
	}
	return c.IntN(80)
}

// packet is a packet of any kind between the addresses, whole; of the tracked connection, if it is between its addresses.
func (c *crafter) packet(v version, src, dst netip.Addr) {
	if f := c.tracked; f != nil && f.src.Addr() == src && f.dst.Addr() == dst {
		c.flow(v, *f)
		return
	}
	protocol := oneOf[uint8](c, protocolUDP, protocolUDP, protocolTCP, protocolTCP, protocolICMP, protocolICMPv6, protocolSCTP)
	if c.chance(24) {
		protocol = oneOf[uint8](c, protocolIPIP, protocolIPv6, protocolRouting, 59, uint8(c.Uint32()))
	}
	ip := c.ip(v, protocol, src, dst)
	switch protocol {
	case protocolUDP:
		udp := c.udp(c.port(), c.port())
		c.random(c.payload(ip, 0))
		c.endUDP(ip, udp, oneOf(c, summedNot, summedRight, summedRight, summedRight, summedRight, summedWrong))
	case protocolTCP:
		c.tcp(ip)
	case protocolICMP, protocolICMPv6:
		at := c.layer(layerICMP)
		c.random(4 + c.payload(ip, 4))
		c.frame[at] = oneOf(c, 0, 1, 2, 8, 128, 132, 133, 134, 135, 136, 137, 138, byte(c.Uint32()))
	case protocolSCTP:
		at := c.layer(layerUDP) // it has ports where UDP has
		c.random(12 + c.payload(ip, 12))
		binary.BigEndian.PutUint16(c.frame[at:], c.port())
		binary.BigEndian.PutUint16(c.frame[at+2:], c.port())
	default:
		c.random(c.payload(ip, 0))
	}
	c.endIP(ip)
}

// trackedFlow is, where connections are translated and now and then, one that will do, or nil.
func (c *crafter) trackedFlow(v version, wanted func(flow) bool) *flow {
	if c.world.nat == bpf.DatapathNatModeNAT_NONE || !c.chance(3) {
		return nil
	}
	for range 16 {
		if f := oneOf(c, flowsByVersion[v]...); wanted(f) {
			c.tracked = &f
			return &f
		}
	}
	return nil
}

// flow is a small packet of a flow.
func (c *crafter) flow(v version, f flow) {
	ip := c.ip(v, f.protocol, f.src.Addr(), f.dst.Addr())
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, f.src.Port()), f.dst.Port())
	if f.protocol == protocolTCP {
		at := len(c.frame)
		c.tcp(ip)
		copy(c.frame[at:], ports)
	} else {
		at := c.udp(f.src.Port(), f.dst.Port())
		c.random(c.IntN(40))
		c.endUDP(ip, at, summedRight)
	}
	c.endIP(ip)
}

// flowsByVersion are both directions of the connections that conntrack knows.
var flowsByVersion = func() map[version][]flow {
	flows := map[version][]flow{}
	for _, known := range slices.Concat(connections, connectionsV6) {
		v := versionOf(known.first.src.Addr())
		flows[v] = append(flows[v], known.first, known.answer())
	}
	return flows
}()

func (c *crafter) port() uint16 {
	return oneOf(c, 40000, 40000, 40001, 53, 53, 8000, 8001, 8080, 8472, 4789, 8285, c.word())
}

func (c *crafter) layer(kind layerKind) int {
	c.layers = append(c.layers, layer{kind, len(c.frame)})
	return len(c.frame)
}

func (c *crafter) ethernet(dst, src topology.MAC, kind uint16) {
	c.layer(layerEthernet)
	c.frame = binary.BigEndian.AppendUint16(append(append(c.frame, dst[:]...), src[:]...), kind)
}

// ip begins an IP packet: its header, and behind it now and then options, or extension headers. Returns where it began.
func (c *crafter) ip(v version, protocol uint8, src, dst netip.Addr) int {
	tos := oneOf(c, 0, 1, 2, 3, 0xb8, 0x2b, uint8(c.Uint32()))
	ttl := oneOf[uint8](c, 64, 64, 64, 64, 64, 2, 255, uint8(c.IntN(3)))
	if v == ipv4 {
		return c.ipv4(protocol, tos, ttl, src, dst)
	}
	at := c.layer(layerIPv6)
	c.frame = binary.BigEndian.AppendUint32(c.frame, 6<<28|uint32(tos)<<20|c.Uint32()&oneOf[uint32](c, 0, 0xfffff))
	c.frame = append(c.frame, 0, 0, protocol, ttl)
	s, d := src.As16(), dst.As16()
	c.frame = append(append(c.frame, s[:]...), d[:]...)
	next := at + 6
	if c.chance(24) {
		kind := oneOf[uint8](c, protocolHopByHop, protocolHopByHop, protocolRouting, protocolOptions, 51, 135)
		c.frame[next], next = kind, len(c.frame)
		c.frame = append(c.frame, protocol, 0, 1, 4, 0, 0, 0, 0)
	}
	if c.chance(16) {
		c.frame[next] = protocolFragment
		c.layer(layerFragment)
		offset := oneOf[uint16](c, 0, 0, 1, 9, uint16(c.IntN(1<<13)))
		c.frame = binary.BigEndian.AppendUint16(append(c.frame, protocol, 0), offset<<3|uint16(c.IntN(2)))
		c.frame = binary.BigEndian.AppendUint32(c.frame, c.Uint32())
	}
	return at
}

func (c *crafter) ipv4(protocol, tos, ttl uint8, src, dst netip.Addr) int {
	at := c.layer(layerIPv4)
	flags := oneOf[uint16](c, 0, 0, 0x4000, 0x4000, 0x8000)
	if c.chance(12) {
		flags = oneOf[uint16](c, 0x2000, 0x2000, 0x2001, 0x0001, uint16(c.IntN(1<<14)))
	}
	c.frame = binary.BigEndian.AppendUint16(append(c.frame, 0x45, tos, 0, 0), c.word())
	c.frame = binary.BigEndian.AppendUint16(c.frame, flags)
	c.frame = append(c.frame, ttl, protocol, 0, 0)
	s, d := src.Unmap().As4(), dst.Unmap().As4()
	c.frame = append(append(c.frame, s[:]...), d[:]...)
	if c.chance(24) {
		words := 1 + c.IntN(10)
		c.frame[at] += byte(words)
		c.random(4 * words)
	}
	return at
}

// endIP sets length and checksum of an IP packet that goes on to the end of the frame.
func (c *crafter) endIP(at int) {
	ip := ipHeader(c.frame[at:])
	if ip.isV6() {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip.setChecksum()
}

func (c *crafter) udp(src, dst uint16) int {
	at := c.layer(layerUDP)
	c.frame = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(c.frame, src), dst)
	c.frame = append(c.frame, 0, 0, 0, 0)
	return at
}

// How a checksum is.
type summing int

const (
	summedNot summing = iota
	summedRight
	summedPartly // CHECKSUM_PARTIAL
	summedWrong
)

func (c *crafter) endUDP(ip, at int, how summing) {
	length := len(c.frame) - at
	binary.BigEndian.PutUint16(c.frame[at+4:], uint16(length))
	c.endSum(ip, at, 6, protocolUDP, how)
}

func (c *crafter) tcp(ip int) {
	at := c.layer(layerTCP)
	words := 5 + c.IntN(4)*c.IntN(4)
	c.random(4*words + c.payload(ip, 4*words))
	binary.BigEndian.PutUint16(c.frame[at:], c.port())
	binary.BigEndian.PutUint16(c.frame[at+2:], c.port())
	c.frame[at+12] = byte(words) << 4
	c.endSum(ip, at, 16, protocolTCP, oneOf(c, summedRight, summedRight, summedWrong))
}

// endSum sets the checksum that stands so many bytes behind at and covers all from there on.
func (c *crafter) endSum(ip, at, field int, protocol uint8, how summing) {
	covered := c.frame[at:]
	pseudo := ipHeader(c.frame[ip:]).pseudoSum(protocol, len(covered))
	sum := uint16(0)
	binary.BigEndian.PutUint16(covered[field:], 0)
	switch how {
	case summedRight:
		sum = ^onesAdd(pseudo, internetSum(covered))
		if sum == 0 {
			sum = 0xffff
		}
	case summedPartly:
		sum = pseudo
	case summedWrong:
		sum = c.word()
	}
	binary.BigEndian.PutUint16(covered[field:], sum)
}

// noise is what payloads are made of.
var noise = func() []byte {
	b := make([]byte, 2*frameMax)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}()

func (c *crafter) random(n int) {
	n = min(n, cap(c.frame)-len(c.frame))
	from := c.IntN(frameMax)
	c.frame = append(c.frame, noise[from:min(from+n, len(noise))]...)
}
