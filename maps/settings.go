// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// Settings are what was fixed when the programs were loaded.
type Settings struct {
	Node           netip.Addr // this node's address on the underlay
	Network        uint32     // number of the containers' network in the maps' keys
	OverlayIfindex uint32     // bpfnet0; 0 where there is none
	OverlayMAC     MAC
	VXLANPort      uint16 // UDP, host byte order; 0: no VXLAN
	UDPPort        uint16 // of flannel's udp backend, host byte order; 0: none
	IPIP           bool   // protocol 4 is decapsulated
	Direct         bool   // plain packets of host-gw peers are taken past the kernel
	Conntrack      bool   // the kernel can be asked about connections
	VNI            uint32
	IndexBase      uint32 // first address of slot 0 of route_index
	IndexShift     uint32 // 32 - prefix length of a slot
	IndexCount     uint32 // slots in use; 0: no index
}

func readSettings(m *ebpf.Map) (*Settings, error) {
	var w bpf.DatapathSettings
	if err := m.Lookup(uint32(0), &w); err != nil {
		return nil, fmt.Errorf("read map settings: %w", err)
	}
	s := decodeSettings(w)
	if s.IndexCount > 0 && (s.IndexShift >= 32 || s.IndexBase&(1<<s.IndexShift-1) != 0) {
		return nil, fmt.Errorf("read map settings: index of /%d prefixes from %#08x on, which is inside one",
			32-int(s.IndexShift), s.IndexBase)
	}
	return s, nil
}

func decodeSettings(w bpf.DatapathSettings) *Settings {
	return &Settings{
		Node:           NetipAddr(bpf.DatapathAddr(w.Node)),
		Network:        w.Network,
		OverlayIfindex: w.OverlayIfindex,
		OverlayMAC:     w.OverlayMac.Byte,
		VXLANPort:      netToHost16(w.VxlanPort),
		UDPPort:        netToHost16(w.UdpPort),
		IPIP:           w.Ipip != 0,
		Direct:         w.Direct != 0,
		Conntrack:      w.Conntrack != 0,
		VNI:            w.Vni,
		IndexBase:      w.IndexBase,
		IndexShift:     w.IndexShift,
		IndexCount:     w.IndexCount,
	}
}
