// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// settings are the world's, as the programs read them.
func (w *world) settings() *bpf.DatapathSettings {
	s := &bpf.DatapathSettings{
		Network:   w.network,
		VxlanPort: bits.ReverseBytes16(w.vxlanPort),
		UdpPort:   bits.ReverseBytes16(w.udpPort),
		Ipip:      flag[uint8](w.ipip, 1),
		Direct:    flag[uint8](w.direct, 1),
		Conntrack: flag[uint8](w.conntrack, 1),
		Vni:       w.vni,
	}
	s.Ipv4.Node, s.Ipv4.OverlayIfindex = wire(w.node), w.overlay.ifindex
	s.Ipv4.OverlayMac.Byte = w.overlay.mac
	s.Ipv4.IndexCount = w.slotCount()
	w.setXDP(s)
	if w.slots.IsValid() {
		base := w.slots.Addr().As4()
		s.Ipv4.IndexBase[1] = uint64(binary.BigEndian.Uint32(base[:]))
		s.Ipv4.IndexShift = uint32(32 - w.slotBits)
	}
	return s
}

func (w *world) setXDP(s *bpf.DatapathSettings) {
	s.UplinkMac.Byte, s.WireMac.Byte, s.Spread = w.uplinkMAC, w.wireMAC, w.spread
	for i := range w.spread {
		s.Cpu[i] = uint16(i)
	}
}

// slotCount is how many slots route_index has.
func (w *world) slotCount() uint32 {
	if !w.slots.IsValid() {
		return 0
	}
	return 1 << (w.slotBits - w.slots.Bits())
}

// fill writes the world into empty maps.
func (w *world) fill(maps map[string]*ebpf.Map) error {
	for _, r := range w.routes {
		if err := w.putRoute(maps, r); err != nil {
			return fmt.Errorf("put route %s: %w", r.prefix, err)
		}
	}
	for index, h := range w.hosts {
		if err := maps[bpf.DatapathMapHosts].Put(index, w.entry(h)); err != nil {
			return fmt.Errorf("put host %d: %w", index, err)
		}
		if index == self {
			continue
		}
		if err := maps[bpf.DatapathMapNodes].Put(wire(h.node), index); err != nil {
			return fmt.Errorf("put node %s: %w", h.node, err)
		}
	}
	for _, e := range w.endpoints {
		key := bpf.DatapathIpKey{Network: e.network, Addr: wire(e.addr)}
		value := bpf.DatapathEndpoint{Ifindex: e.ifindex, Mac: mac(e.mac), Gateway: mac(e.gateway)}
		if err := maps[bpf.DatapathMapEndpoints].Put(key, value); err != nil {
			return fmt.Errorf("put endpoint %s: %w", e.addr, err)
		}
	}
	if err := w.fillCPUs(maps); err != nil {
		return err
	}
	if err := maps[bpf.DatapathMapNat].Put(uint32(0), w.nat); err != nil {
		return fmt.Errorf("put NAT mode: %w", err)
	}
	return nil
}

func (w *world) fillCPUs(maps map[string]*ebpf.Map) error {
	if w.spread == 0 {
		return nil
	}
	if err := maps[bpf.DatapathMapCpus].Put(uint32(0), bpf.DatapathBpfCpumapVal{Qsize: 64}); err != nil {
		return fmt.Errorf("put CPU: %w", err)
	}
	return nil
}

// putRoute puts a route of the usual length into the index, unless a longer one lies inside it, and
// any other into the trie.
func (w *world) putRoute(maps map[string]*ebpf.Map, r route) error {
	if w.slots.IsValid() && r.network == w.network && r.prefix.Bits() == w.slotBits &&
		w.slots.Contains(r.prefix.Addr()) && !w.split(r) {
		addr, base := r.prefix.Addr().As4(), w.slots.Addr().As4()
		slot := (binary.BigEndian.Uint32(addr[:]) - binary.BigEndian.Uint32(base[:])) >> (32 - w.slotBits)
		return maps[bpf.DatapathMapRouteIndex].Update(slot, r.host, ebpf.UpdateExist)
	}
	key := bpf.DatapathRouteKey{
		PrefixLen: uint32(32 + 96 + r.prefix.Bits()),
		Network:   bits.ReverseBytes32(r.network),
		Addr:      wire(r.prefix.Addr()),
	}
	return maps[bpf.DatapathMapRoutes].Put(key, r.host)
}

func (w *world) split(r route) bool {
	for _, other := range w.routes {
		if other.network == r.network && other.prefix.Bits() > r.prefix.Bits() && r.prefix.Overlaps(other.prefix) {
			return true
		}
	}
	return false
}

// Flags of bpf_skb_adjust_room(), include/uapi/linux/bpf.h.
const (
	fixedGSO      = 1 << 0
	encapL3IPv4   = 1 << 1
	encapL4UDP    = 1 << 4
	encapL2Eth    = 1 << 6
	encapL2Length = 56 // shift
)

// entry is a host as types.h wants it: the header finished but for what depends on the packet.
func (w *world) entry(h host) bpf.DatapathHost {
	header, adjust := w.template(h)
	e := bpf.DatapathHost{
		Node:      wire(h.node),
		NextHop:   wire(h.node),
		Ifindex:   w.uplink.ifindex,
		Mtu:       h.mtu,
		Encap:     h.encap,
		Adjust:    adjust,
		HeaderLen: uint8(len(header)),
	}
	e.Flags |= flag(h.encap == bpf.DatapathEncapENCAP_VXLAN, bpf.DatapathHostFlagsHOST_SOURCE_PORT)
	e.Flags |= flag(h.ttl == 0, bpf.DatapathHostFlagsHOST_INHERIT_TTL)
	e.Flags |= flag(h.inheritDF, bpf.DatapathHostFlagsHOST_INHERIT_DF)
	copy(e.Header[:], header)
	return e
}

func (w *world) template(h host) ([]byte, uint64) {
	ip := []byte{0x45, h.tos, 0, 0, 0, 0, flag[uint8](h.df, 0x40), 0, h.ttl, 0, 0, 0}
	src, dst := w.node.As4(), h.node.As4()
	ip = append(append(ip, src[:]...), dst[:]...)
	between, adjust := []byte{}, uint64(fixedGSO|encapL3IPv4)
	switch h.encap {
	case bpf.DatapathEncapENCAP_NONE:
		return nil, 0
	case bpf.DatapathEncapENCAP_VXLAN:
		ip[9] = protocolUDP
		between = []byte{0, 0, byte(w.vxlanPort >> 8), byte(w.vxlanPort), 0, 0, 0, 0, // UDP
			8, 0, 0, 0, byte(w.vni >> 16), byte(w.vni >> 8), byte(w.vni), 0} // VXLAN
		between = append(append(append(between, h.vtep[:]...), w.overlay.mac[:]...), 8, 0)
		adjust |= encapL4UDP | encapL2Eth | etherLen<<encapL2Length
	case bpf.DatapathEncapENCAP_UDP:
		ip[9] = protocolUDP
		port := []byte{byte(w.udpPort >> 8), byte(w.udpPort)}
		between = append(append(between, port...), port[0], port[1], 0, 0, 0, 0)
		adjust |= encapL4UDP
	case bpf.DatapathEncapENCAP_IPIP:
		ip[9] = protocolIPIP
	}
	binary.BigEndian.PutUint16(ip[10:], internetSum(ip))
	return append(ip, between...), adjust
}

func flag[T uint8 | bpf.DatapathHostFlags](on bool, value T) T {
	if on {
		return value
	}
	return 0
}

func mac(m topology.MAC) bpf.DatapathMac { return bpf.DatapathMac{Byte: m} }
