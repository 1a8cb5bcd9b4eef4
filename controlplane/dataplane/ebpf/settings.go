// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// indexMax bounds route_index: 4 Mi slots of 8 bytes. Subnets beyond it are found in the trie.
const indexMax = 1 << 22

// Overlay is the device that stands for the overlay in the kernel; zero where there is none.
type Overlay struct {
	Ifindex int
	MAC     topology.MAC
}

// Settings are what is fixed when the programs are loaded. subnetLen is the
// prefix length most subnets of the network have. direct: some peers get plain
// packets.
func Settings(self topology.Self, network netip.Prefix, subnetLen int, direct bool, o Overlay) bpf.DatapathSettings {
	s := bpf.DatapathSettings{
		OverlayIfindex: uint32(o.Ifindex),
		Vni:            self.VNI,
		IndexBase:      binary.BigEndian.Uint32(network.Masked().Addr().AsSlice()),
		IndexShift:     uint32(32 - subnetLen),
		IndexCount:     uint32(min(1<<(subnetLen-network.Bits()), indexMax)),
	}
	s.Node.Word = maps.Addr(self.Node).Word
	s.OverlayMac.Byte = o.MAC
	port := self.Port>>8 | self.Port<<8 // network byte order
	switch self.Encap {
	case topology.EncapVXLAN:
		s.VxlanPort = port
	case topology.EncapUDP:
		s.UdpPort = port
	case topology.EncapIPIP:
		s.Ipip = 1
	case topology.EncapNone:
		direct = true
	}
	if direct {
		s.Direct = 1
	}
	return s
}
