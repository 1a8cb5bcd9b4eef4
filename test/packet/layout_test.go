// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
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
	s.Ipv4 = w.family(w.node, w.overlay, w.window(ipv4))
	s.Ipv6 = w.family(w.node6, w.overlay6, w.window(ipv6))
	s.Ipv6.Used = flag[uint8](w.useIPv6, 1)
	w.setXDP(s)
	return s
}

func (w *world) setXDP(s *bpf.DatapathSettings) {
	s.UplinkMac.Byte, s.WireMac.Byte, s.Spread = w.uplinkMAC, w.wireMAC, w.spread
	for i := range w.spread {
		s.Cpu[i] = uint16(i)
	}
}

func (w *world) family(node netip.Addr, overlay link, index maps.Window) bpf.DatapathFamily {
	f := bpf.DatapathFamily{Node: wire(node), OverlayIfindex: overlay.ifindex, OverlayMac: mac(overlay.mac)}
	index.Encode(&f)
	return f
}

// window is what route_index has of that version: IPv4's slots come first.
func (w *world) window(v version) maps.Window {
	first, slots, bits := uint32(0), w.slots, w.slotBits
	if v == ipv6 {
		first, slots, bits = w.window(ipv4).Count, w.slots6, w.slotBits6
	}
	if !slots.IsValid() {
		return maps.Window{}
	}
	return maps.Window{Base: slots.Addr(), Bits: bits, First: first, Count: 1 << (bits - slots.Bits())}
}

// fill writes the world into empty maps, as the daemon does.
func (w *world) fill(empty map[string]*ebpf.Map) error {
	set, err := maps.NewSet(empty)
	if err != nil {
		return err
	}
	for _, r := range w.routes {
		err = errors.Join(err, set.Routes.Put(maps.Route{
			Network: r.network, Prefix: r.prefix, Host: r.host, Shortcut: w.shortcut(r.host),
		}))
	}
	for index, h := range w.hosts {
		err = errors.Join(err, set.Hosts.Put(index, w.entry(h)))
		if index != self {
			err = errors.Join(err, set.Nodes.Put(h.node, index), set.Templates.Put(index, w.templateOf(h)))
		}
	}
	for _, e := range w.endpoints {
		err = errors.Join(err, set.Endpoints.Put(e.network, e.addr, maps.Endpoint{Ifindex: e.ifindex, MAC: e.mac, Gateway: e.gateway}))
	}
	return errors.Join(err, w.fillCPUs(empty), empty[bpf.DatapathMapNat].Put(uint32(0), w.nat))
}

func (w *world) fillCPUs(empty map[string]*ebpf.Map) error {
	if w.spread == 0 {
		return nil
	}
	return empty[bpf.DatapathMapCpus].Put(uint32(0), bpf.DatapathBpfCpumapVal{Qsize: 64})
}

// shortcut is what a route's slot has of a host. Where there is room for it, each host has a template, of its own number.
func (w *world) shortcut(number uint32) maps.Shortcut {
	h, ok := w.hosts[number]
	if !ok || number == self || !h.node.Is4() {
		return maps.Shortcut{}
	}
	return maps.Shortcut{Node: h.node, VTEP: h.vtep, Template: uint8(number)}
}

// templateOf is a host's entry without what its route's slot has.
func (w *world) templateOf(h host) maps.Host {
	if h.node.Is4() {
		h.node, h.vtep = netip.IPv4Unspecified(), topology.MAC{}
	}
	e := w.entry(h)
	e.Node, e.NextHop = netip.Addr{}, netip.Addr{}
	return e
}

// Flags of bpf_skb_adjust_room(), include/uapi/linux/bpf.h.
const (
	fixedGSO      = 1 << 0
	encapL3IPv4   = 1 << 1
	encapL3IPv6   = 1 << 2
	encapL4UDP    = 1 << 4
	encapL2Eth    = 1 << 6
	encapL2Length = 56 // shift
)

// entry is a host as types.h wants it: the header finished but for what depends on the packet.
func (w *world) entry(h host) maps.Host {
	header, adjust := w.template(h)
	e := maps.Host{
		Node:      h.node,
		NextHop:   h.node,
		Ifindex:   w.uplink.ifindex,
		MTU:       h.mtu,
		Encap:     h.encap,
		Adjust:    adjust,
		HeaderLen: uint8(len(header)),
	}
	vxlan := h.encap == bpf.DatapathEncapENCAP_VXLAN
	e.Flags |= flag(vxlan, bpf.DatapathHostFlagsHOST_SOURCE_PORT)
	e.Flags |= flag(h.ttl == 0, bpf.DatapathHostFlagsHOST_INHERIT_TTL)
	e.Flags |= flag(h.inheritDF, bpf.DatapathHostFlagsHOST_INHERIT_DF)
	e.Flags |= flag(h.label, bpf.DatapathHostFlagsHOST_FLOW_LABEL)
	e.Flags |= flag(h.node.Is6(), bpf.DatapathHostFlagsHOST_IPV6)
	e.Flags |= flag(h.needsChecksum(), bpf.DatapathHostFlagsHOST_CHECKSUM)
	copy(e.Header[:], header)
	return e
}

// template is what the header of every packet to the host has in common, with what types.h wants in the place of checksums.
func (w *world) template(h host) ([]byte, uint64) {
	inner := max(h.carries, ipv4)
	protocol, between, adjust := inner.tunnelled(), []byte{}, uint64(fixedGSO)
	switch h.encap {
	case bpf.DatapathEncapENCAP_NONE:
		return nil, 0
	case bpf.DatapathEncapENCAP_VXLAN:
		protocol = protocolUDP
		between = []byte{0, 0, byte(w.vxlanPort >> 8), byte(w.vxlanPort), 0, 0, 0, 0, // UDP
			8, 0, 0, 0, byte(w.vni >> 16), byte(w.vni >> 8), byte(w.vni), 0} // VXLAN
		ours := w.overlayOf(versionOf(h.node)).mac
		between = append(append(between, h.vtep[:]...), ours[:]...)
		between = binary.BigEndian.AppendUint16(between, inner.etherType())
		adjust |= encapL4UDP | encapL2Eth | etherLen<<encapL2Length
	case bpf.DatapathEncapENCAP_UDP:
		protocol = protocolUDP
		port := []byte{byte(w.udpPort >> 8), byte(w.udpPort)}
		between = append(append(between, port...), port[0], port[1], 0, 0, 0, 0)
		adjust |= encapL4UDP
	}
	if h.node.Is4() {
		ip := join([]byte{0x45, h.tos, 0, 0, 0, 0, flag[uint8](h.df, 0x40), 0, h.ttl, protocol, 0, 0}, w.node.AsSlice(), h.node.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], internetSum(ip))
		return append(ip, between...), adjust | encapL3IPv4
	}
	ip := ipHeader(join(binary.BigEndian.AppendUint32(nil, 6<<28|uint32(h.tos)<<20), []byte{0, 0, protocol, h.ttl}, w.node6.AsSlice(), h.node.AsSlice()))
	if h.needsChecksum() {
		binary.BigEndian.PutUint16(between[6:], onesAdd(ip.pseudoSum(protocol, 0), internetSum(between)))
	}
	return append(ip, between...), adjust | encapL3IPv6
}

func flag[T uint8 | bpf.DatapathHostFlags](on bool, value T) T {
	if on {
		return value
	}
	return 0
}

func mac(m topology.MAC) bpf.DatapathMac { return bpf.DatapathMac{Byte: m} }
