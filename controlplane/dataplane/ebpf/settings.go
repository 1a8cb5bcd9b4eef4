// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// indexMax bounds each family's part of route_index: 4 Mi slots of 16 bytes. Subnets beyond it are found in the trie.
const indexMax = 1 << 22

// Overlay is the device that stands for the overlay in the kernel; zero where there is none.
type Overlay struct {
	Ifindex int
	MAC     topology.MAC
}

// Network is the overlay in one address family of the containers.
type Network struct {
	Self      topology.Self
	Prefix    netip.Prefix
	SubnetLen int // the prefix length most subnets have
	Overlay   Overlay
}

// Settings are what is fixed when the programs are loaded, for a network of one
// address family or of both, IPv4 first. direct: some peers get plain packets.
func Settings(direct bool, networks ...Network) bpf.DatapathSettings {
	var s bpf.DatapathSettings
	for _, n := range networks {
		inner := family(&s, n.Prefix.Addr())
		inner.Used = 1
		indexWindow(n, s.Ipv4.IndexCount).Encode(inner)
		// The outer family's, but for what from_wire has taken out of its tunnel.
		inner.OverlayIfindex, inner.OverlayMac.Byte = uint32(n.Overlay.Ifindex), n.Overlay.MAC
		for _, node := range []netip.Addr{n.Self.Other, n.Self.Node} {
			if node.IsValid() {
				outer := family(&s, node)
				outer.Node, outer.Used = maps.Addr(node), 1
				outer.OverlayIfindex, outer.OverlayMac.Byte = uint32(n.Overlay.Ifindex), n.Overlay.MAC
			}
		}
		encapsulation(&s, n.Self)
	}
	if direct {
		s.Direct = 1
	}
	return s
}

// family is the part of the settings for an address's family.
func family(s *bpf.DatapathSettings, a netip.Addr) *bpf.DatapathFamily {
	if a.Is4() {
		return &s.Ipv4
	}
	return &s.Ipv6
}

// indexWindow has a slot for each subnet of the network, as far as there may be.
func indexWindow(n Network, first uint32) maps.Window {
	bits := min(n.SubnetLen-n.Prefix.Bits(), 32) // of more it is the first that are found there
	return maps.Window{
		Base: n.Prefix.Masked().Addr(), Bits: n.SubnetLen, First: first, Count: uint32(min(1<<bits, indexMax)),
	}
}

// encapsulation switches on what the network's backend needs; that is one for both families.
func encapsulation(s *bpf.DatapathSettings, self topology.Self) {
	s.Vni = self.VNI
	port := self.Port>>8 | self.Port<<8 // network byte order
	switch self.Encap {
	case topology.EncapVXLAN:
		s.VxlanPort = port
	case topology.EncapUDP:
		s.UdpPort = port
	case topology.EncapIPIP:
		s.Ipip = 1
	case topology.EncapNone:
		s.Direct = 1
	}
}
