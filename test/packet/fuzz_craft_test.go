// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// crafter makes packets for a program in a world: valid ones of every shape, some of them then changed by mutations.
// The same seed gives the same packets. A packet is good until the next.
type crafter struct {
	*rand.Rand
	source  *rand.PCG
	world   *world
	buffer  []byte
	frame   []byte  // in the making, in buffer
	layers  []layer // of frame
	super   bool    // it is to be a superpacket
	tracked *flow   // it is to be of a connection that conntrack knows
}

// layer is a header of the frame in the making.
type layer struct {
	kind layerKind
	at   int
}

type layerKind int

const (
	layerEthernet layerKind = iota
	layerIPv4
	layerIPv6
	layerFragment
	layerUDP
	layerTCP
	layerICMP
	layerVXLAN
)

func newCrafter() *crafter {
	source := rand.NewPCG(0, 0)
	return &crafter{Rand: rand.New(source), source: source, buffer: make([]byte, 2*frameMax)}
}

// start begins a series of packets.
func (c *crafter) start(w *world, seed, series uint64) {
	c.source.Seed(seed, series)
	c.world = w
}

// next is a packet for the program. One in 32 is made for another.
func (c *crafter) next(program bpf.DatapathProgram) arrival {
	for {
		c.frame, c.layers = c.buffer[:0], c.layers[:0]
		a := arrival{}
		c.super, c.tracked = c.chance(12), nil
		makers[c.pick(program)](c, &a)
		if c.super {
			a.gsoSize = oneOf(c, 1, 60, 536, 1300, 1340, 1348, 1352, 1360, 1372, 1380, 1388, 1392, 1398, 1400, 1408, 1420, 1448, 1472, c.word())
			if c.chance(3) {
				a.gsoSize = 0xffff
			}
		}
		if c.chance(2) {
			c.mutate(&a)
		}
		if a.frame = c.frame; a.runnable() {
			return a
		}
	}
}

func (c *crafter) pick(program bpf.DatapathProgram) bpf.DatapathProgram {
	if c.chance(32) {
		return bpf.DatapathProgram(c.IntN(len(makers)))
	}
	return program
}

// makers make a packet as each program is meant to get it.
var makers = map[bpf.DatapathProgram]func(*crafter, *arrival){
	bpf.DatapathProgramPROGRAM_FROM_CONTAINER: (*crafter).containerSends,
	bpf.DatapathProgramPROGRAM_FROM_NETWORK:   (*crafter).networkSends,
	bpf.DatapathProgramPROGRAM_FROM_HOST:      (*crafter).nodeSends,
	bpf.DatapathProgramPROGRAM_FROM_OVERLAY:   (*crafter).overlaySends,
	bpf.DatapathProgramPROGRAM_FROM_VETH:      (*crafter).nodeSends,
	bpf.DatapathProgramPROGRAM_FROM_WIRE:      (*crafter).networkSends,
}

// chance is true once in n times.
func (c *crafter) chance(n int) bool { return c.IntN(n) == 0 }

func (c *crafter) word() uint16 { return uint16(c.Uint32()) }

func oneOf[T any](c *crafter, from ...T) T { return from[c.IntN(len(from))] }

// --- Who sends to whom

func (c *crafter) anyVersion() version {
	if c.world.useIPv6 && !c.chance(3) {
		return ipv6
	}
	return ipv4
}

// local is an address of this node's subnet, mostly a container's; -1 is nobody's place among the endpoints.
func (c *crafter) local(v version) (netip.Addr, *endpoint) {
	w := c.world
	for range 8 {
		if e := &w.endpoints[c.IntN(len(w.endpoints))]; versionOf(e.addr) == v && !c.chance(6) {
			return e.addr, e
		}
	}
	return c.routed(v, func(r route) bool { return r.host == self }), nil
}

// remote is an address behind a peer.
func (c *crafter) remote(v version) netip.Addr {
	return c.routed(v, func(r route) bool { return r.host != self })
}

func (c *crafter) routed(v version, wanted func(route) bool) netip.Addr {
	w := c.world
	for range 16 {
		if r := w.routes[c.IntN(len(w.routes))]; versionOf(r.prefix.Addr()) == v && wanted(r) {
			return c.inside(r.prefix)
		}
	}
	return c.odd(v)
}

// inside is an address in a prefix, mostly the second.
func (c *crafter) inside(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	switch c.IntN(8) {
	case 0:
		a[len(a)-1] += byte(c.IntN(4))
	case 1:
		a[len(a)-1] += 0x77
	case 2: // the last
		for bit := p.Bits(); bit < 8*len(a); bit++ {
			a[bit/8] |= 0x80 >> (bit % 8)
		}
	default:
		a[len(a)-1] += 2
	}
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// odd is an address with something about it.
func (c *crafter) odd(v version) netip.Addr {
	if node := c.world.nodeOf(v); node.IsValid() && c.chance(4) {
		return node
	}
	if v == ipv6 {
		return oneOf(c, nodeV6, peerV6, thirdV6, fourthV6, fifthV6, sixthV6, strangerV6, noLeaseV6, internetV6, linkLocalV6, allNodes, allMLDv2,
			unspecified, containerV6, remoteV6, mappedC1, mappedNode, lastLinkLocal, siteLocal)
	}
	return oneOf(c, node1, node2, node3, node4, node5, node6, node7, stranger, vtepAddr, bridge, nowhere, noLease, internet, group, everyone, zeroAddr,
		lastAddr, c1, remote2)
}

var (
	mappedC1      = netip.AddrFrom16(c1.As16())
	mappedNode    = netip.AddrFrom16(node1.As16())
	lastLinkLocal = netip.MustParseAddr("febf:ffff::1")
	siteLocal     = netip.MustParseAddr("fec0::1") // no longer link-local
)

// peer is some other node, and what goes by it.
func (c *crafter) peer() (host, netip.Addr) {
	w := c.world
	for range 16 {
		r := w.routes[c.IntN(len(w.routes))]
		if h, found := w.hosts[r.host]; found && r.host != self && (!w.useIPv6 || h.node.Is6() || h.carries == ipv6 || c.chance(2)) {
			return h, c.inside(r.prefix)
		}
	}
	return host{node: node2, encap: bpf.DatapathEncapENCAP_VXLAN}, remote2
}

func (c *crafter) oddMAC() topology.MAC {
	return oneOf(c, bridgeMAC, c1MAC, c2MAC, routerMAC, uplink.mac, overlay.mac, overlay6.mac, vtep2, vtep7, wireMAC, broadcast, multicast,
		topology.MAC{0x33, 0x33, 0, 0, 0, 1}, topology.MAC{})
}

func (c *crafter) containerSends(a *arrival) {
	v := c.anyVersion()
	src, from := c.local(v)
	if c.chance(8) {
		src = oneOf(c, c.remote(v), c.odd(v))
	}
	if from == nil {
		from = &c.world.endpoints[0]
	}
	dst, mac := c.remote(v), from.gateway
	switch c.IntN(8) {
	case 0:
		dst = c.odd(v)
	case 1, 2:
		local, to := c.local(v)
		if dst = local; to != nil && c.chance(2) {
			mac = to.mac
		}
	}
	if c.chance(12) {
		mac = c.oddMAC()
	}
	if f := c.trackedFlow(v, func(f flow) bool { return f.src.Addr() == src }); f != nil {
		dst, mac = f.dst.Addr(), from.gateway
	}
	a.ifindex = from.ifindex
	if c.chance(24) {
		a.ifindex = oneOf(c, link1, link2, uplink).ifindex
	}
	c.ethernet(mac, from.mac, v.etherType())
	c.packet(v, src, dst)
}

func (c *crafter) nodeSends(a *arrival) {
	v := c.anyVersion()
	src, _ := c.local(v)
	switch c.IntN(8) {
	case 0:
		src = oneOf(c, c.remote(v), c.odd(v))
	case 1, 2:
		if node := c.world.nodeOf(v); node.IsValid() {
			src = node
		}
	}
	dst := c.remote(v)
	if c.chance(6) {
		dst = c.odd(v)
		if c.chance(2) {
			dst, _ = c.local(v)
		}
	}
	a.ifindex = oneOf(c, overlay, overlay6).ifindex
	c.ethernet(oneOf(c, vtep2, vtep7), overlay.mac, v.etherType())
	c.packet(v, src, dst)
}

func (c *crafter) overlaySends(a *arrival) {
	v := c.anyVersion()
	a.ifindex = oneOf(c, overlay, overlay6).ifindex
	a.mark = oneOf(c, 0, markChecked, markChecked, markChecked|c.Uint32(), c.Uint32(), uint32(markChecked)&c.Uint32())
	dst, _ := c.local(v)
	c.ethernet(overlay.mac, vtep2, v.etherType())
	c.packet(v, c.remote(v), dst)
}

// networkSends is a packet on the uplink: in a tunnel or plain, or out of one already, by from_wire.
func (c *crafter) networkSends(a *arrival) {
	a.ifindex = uplink.ifindex
	if c.chance(64) {
		a.ifindex = link1.ifindex
	}
	mac, from := uplink.mac, routerMAC
	if c.chance(24) {
		mac = c.oddMAC()
	}
	peer, src := c.peer()
	v := versionOf(src)
	switch c.IntN(16) {
	case 0:
		src = peer.node
	case 1:
		src = oneOf(c, c.remote(v), c.odd(v))
	case 2:
		src, _ = c.local(v)
	}
	dst, _ := c.local(versionOf(src))
	if c.chance(10) {
		dst = oneOf(c, c.remote(versionOf(src)), c.odd(versionOf(src)))
	}
	if f := c.trackedFlow(v, func(f flow) bool { _, found := c.world.peerBehind(f.src.Addr()); return found }); f != nil {
		src, dst = f.src.Addr(), f.dst.Addr()
		peer, _ = c.world.peerBehind(src)
	}
	own := c.world.wireMAC != topology.MAC{} && c.chance(12)
	if own {
		from = wireMAC
	}
	if own || peer.encap == bpf.DatapathEncapENCAP_NONE || c.chance(12) {
		c.ethernet(mac, from, versionOf(src).etherType())
		c.packet(versionOf(src), src, dst)
		return
	}
	c.tunnelled(peer, mac, from, src, dst)
}

// tunnelled is a packet as the peer sends it, or somebody in its place.
func (c *crafter) tunnelled(peer host, mac, from topology.MAC, src, dst netip.Addr) {
	w, v, inner := c.world, versionOf(peer.node), versionOf(src)
	outerSrc, outerDst := peer.node, w.nodeOf(v)
	if c.chance(12) {
		outerSrc = c.odd(v)
	}
	if !outerDst.IsValid() || c.chance(48) {
		outerDst = c.odd(v)
	}
	protocol, port := inner.tunnelled(), uint16(0)
	if encap := peer.encap; encap != bpf.DatapathEncapENCAP_IPIP {
		protocol, port = protocolUDP, w.vxlanPort
		if encap == bpf.DatapathEncapENCAP_UDP {
			port = w.udpPort
		}
	}
	c.ethernet(mac, from, v.etherType())
	ip := c.ip(v, protocol, outerSrc, outerDst)
	if protocol != protocolUDP {
		c.insides(inner, src, dst)
		c.endIP(ip)
		return
	}
	udp := c.udp(oneOf(c, 51000, 8472, c.word()), port)
	vxlan := peer.encap == bpf.DatapathEncapENCAP_VXLAN
	if vxlan {
		c.layer(layerVXLAN)
		c.frame = binary.BigEndian.AppendUint32(append(c.frame, 8, 0, 0, 0), w.vni<<8)
		to := w.overlayOf(v).mac
		if c.chance(20) {
			to = c.oddMAC()
		}
		c.ethernet(to, oneOf(c, vtep2, vtep7, routerMAC), inner.etherType())
	}
	c.insides(inner, src, dst)
	c.endUDP(ip, udp, oneOf(c, summedNot, summedNot, summedRight, summedRight, summedPartly, summedWrong))
	c.endIP(ip)
}
