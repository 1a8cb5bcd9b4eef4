// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/maps"
)

type settings struct {
	Network   uint32 `json:"network"`
	VXLANPort uint16 `json:"vxlan_port"` // 0: no VXLAN
	VNI       uint32 `json:"vni"`
	UDPPort   uint16 `json:"udp_port"` // 0: no flannel udp
	IPIP      bool   `json:"ipip"`
	Direct    bool   `json:"direct"`
	Conntrack bool   `json:"conntrack"`
	IPv4      family `json:"ipv4"`
	IPv6      family `json:"ipv6"`
}

type family struct {
	Node           netip.Addr `json:"node"`
	OverlayIfindex uint32     `json:"overlay_ifindex"` // 0: no device
	OverlayMAC     string     `json:"overlay_mac"`
	IndexBase      netip.Addr `json:"index_base"`
	IndexBits      int        `json:"index_prefix_length"`
	IndexFirst     uint32     `json:"index_first_slot"`
	IndexCount     uint32     `json:"index_slots"` // 0: no index
}

func newSettings(s maps.Settings) settings {
	return settings{
		Network: s.Network, VXLANPort: s.VXLANPort, VNI: s.VNI, UDPPort: s.UDPPort,
		IPIP: s.IPIP, Direct: s.Direct, Conntrack: s.Conntrack, IPv4: newFamily(s.IPv4), IPv6: newFamily(s.IPv6),
	}
}

func newFamily(f maps.Family) family {
	return family{
		Node: f.Node, OverlayIfindex: f.OverlayIfindex, OverlayMAC: macString(f.OverlayMAC),
		IndexBase: f.Index.Base, IndexBits: f.Index.Bits, IndexFirst: f.Index.First, IndexCount: f.Index.Count,
	}
}

func (s settings) rows() [][]string {
	rows := [][]string{
		{"network", number(s.Network)},
		{"vxlan", orNone(s.VXLANPort != 0, fmt.Sprintf("UDP port %d, VNI %d", s.VXLANPort, s.VNI))},
		{"udp", orNone(s.UDPPort != 0, fmt.Sprintf("UDP port %d", s.UDPPort))},
		{"ipip", onOff(s.IPIP)},
		{"direct", onOff(s.Direct)},
		{"conntrack", onOff(s.Conntrack)},
	}
	return append(append(rows, s.IPv4.rows("IPv4 ")...), s.IPv6.rows("IPv6 ")...)
}

func (f family) rows(prefix string) [][]string {
	return [][]string{
		{prefix + "node", addrText(f.Node)},
		{prefix + "overlay device", orNone(f.OverlayIfindex != 0, fmt.Sprintf("ifindex %d, MAC %s", f.OverlayIfindex, f.OverlayMAC))},
		{prefix + "index", orNone(f.IndexCount != 0,
			fmt.Sprintf("%d prefixes of length %d from %s on", f.IndexCount, f.IndexBits, f.IndexBase))},
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
