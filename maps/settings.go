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
	IPv4, IPv6 Family
	Network    uint32 // number of the containers' network in the maps' keys
	VNI        uint32
	VXLANPort  uint16 // UDP, host byte order; 0: no VXLAN
	UDPPort    uint16 // of flannel's udp backend, host byte order; 0: none
	IPIP       bool   // IP in IP is decapsulated
	Direct     bool   // plain packets of host-gw peers are taken past the kernel
	Conntrack  bool   // the kernel can be asked about connections
}

// Family is what the programs know of one address family: its containers'
// subnets, and what has an outer header of it.
type Family struct {
	Index          Window
	Node           netip.Addr // this node's address on the underlay; none: the zero Addr
	OverlayIfindex uint32     // bpfnet0, or bpfnet0-v6; 0 where there is none
	OverlayMAC     MAC
}

func readSettings(m *ebpf.Map) (*Settings, error) {
	var w bpf.DatapathSettings
	if err := m.Lookup(uint32(0), &w); err != nil {
		return nil, fmt.Errorf("read map settings: %w", err)
	}
	s := decodeSettings(w)
	for _, x := range []Window{s.IPv4.Index, s.IPv6.Index} {
		if err := x.check(); err != nil {
			return nil, fmt.Errorf("read map settings: %w", err)
		}
	}
	return s, nil
}

func decodeSettings(w bpf.DatapathSettings) *Settings {
	return &Settings{
		IPv4:      decodeFamily(w.Ipv4, ipv4Bits),
		IPv6:      decodeFamily(w.Ipv6, ipv6Bits),
		Network:   w.Network,
		VNI:       w.Vni,
		VXLANPort: netToHost16(w.VxlanPort),
		UDPPort:   netToHost16(w.UdpPort),
		IPIP:      w.Ipip != 0,
		Direct:    w.Direct != 0,
		Conntrack: w.Conntrack != 0,
	}
}

func decodeFamily(w bpf.DatapathFamily, addrBits int) Family {
	return Family{
		Index:          decodeWindow(w, addrBits),
		Node:           NetipAddr(w.Node),
		OverlayIfindex: w.OverlayIfindex,
		OverlayMAC:     w.OverlayMac.Byte,
	}
}
