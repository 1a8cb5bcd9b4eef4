// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/maps"
)

type settings struct {
	Node           netip.Addr `json:"node"`
	Network        uint32     `json:"network"`
	OverlayIfindex uint32     `json:"overlay_ifindex"`
	OverlayMAC     string     `json:"overlay_mac"`
	VXLANPort      uint16     `json:"vxlan_port"` // 0: no VXLAN
	VNI            uint32     `json:"vni"`
	UDPPort        uint16     `json:"udp_port"` // 0: no flannel udp
	IPIP           bool       `json:"ipip"`
	Direct         bool       `json:"direct"`
	Conntrack      bool       `json:"conntrack"`
	IndexBase      netip.Addr `json:"index_base"`
	IndexBits      uint32     `json:"index_prefix_length"`
	IndexCount     uint32     `json:"index_slots"` // 0: no index
}

func newSettings(s maps.Settings) settings {
	var base [4]byte
	binary.BigEndian.PutUint32(base[:], s.IndexBase)
	return settings{
		Node: s.Node, Network: s.Network,
		OverlayIfindex: s.OverlayIfindex, OverlayMAC: macString(s.OverlayMAC),
		VXLANPort: s.VXLANPort, VNI: s.VNI, UDPPort: s.UDPPort, IPIP: s.IPIP, Direct: s.Direct, Conntrack: s.Conntrack,
		IndexBase: netip.AddrFrom4(base), IndexBits: 32 - s.IndexShift, IndexCount: s.IndexCount,
	}
}

func (s settings) rows() [][]string {
	return [][]string{
		{"node", addrText(s.Node)},
		{"network", number(s.Network)},
		{"overlay device", orNone(s.OverlayIfindex != 0, fmt.Sprintf("ifindex %d, MAC %s", s.OverlayIfindex, s.OverlayMAC))},
		{"vxlan", orNone(s.VXLANPort != 0, fmt.Sprintf("UDP port %d, VNI %d", s.VXLANPort, s.VNI))},
		{"udp", orNone(s.UDPPort != 0, fmt.Sprintf("UDP port %d", s.UDPPort))},
		{"ipip", onOff(s.IPIP)},
		{"direct", onOff(s.Direct)},
		{"conntrack", onOff(s.Conntrack)},
		{"index", orNone(s.IndexCount != 0,
			fmt.Sprintf("%d prefixes of length %d from %s on", s.IndexCount, s.IndexBits, s.IndexBase))},
	}
}

func orNone(there bool, text string) string {
	if !there {
		return "none"
	}
	return text
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func readSettings(set *maps.Set) ([]record, error) { return []record{newSettings(*set.Settings)}, nil }
