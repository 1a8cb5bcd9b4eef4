// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"maps"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The overlay devices. Those that take each other's place when the dataplane
// changes have names of their own: both stand while the routes are moved.
const (
	OverlayName     = "bpfnet0"     // a vxlan device; a veth in the modes that the programs alone carry
	OverlayPeerName = "bpfnet0p"    // the veth's other end
	Overlay6Name    = "bpfnet0-v6"  // the vxlan device of an IPv6 network, over IPv6
	IPIPName        = "bpfnet-ipip" // the kernel's tunnel devices (ipip.go): IPv4 in IPv4,
	SITName         = "bpfnet-sit"  // IPv6 in IPv4,
	IP6Name         = "bpfnet-ip6"  // either in IPv6; of both networks of a dual-stack node
	TUNName         = udptun.DeviceName
)

// devices are all overlay devices, with the types of link that are ours under
// these names; the veth's other end goes with it.
var devices = map[string][]string{
	OverlayName:  {"vxlan", "veth"},
	Overlay6Name: {"vxlan"},
	IPIPName:     {"ipip"},
	SITName:      {"sit"},
	IP6Name:      {"ip6tnl"},
	TUNName:      {"tuntap"},
}

// overlayName is the device that serves this node's network; "" where none does.
func overlayName(s topology.Self, c Carrier) string {
	switch {
	case s.Encap == topology.EncapNone:
		return ""
	case s.Encap == topology.EncapVXLAN && s.Subnet.Addr().Is6():
		return Overlay6Name
	case c == Kernel && s.Encap == topology.EncapIPIP:
		return ipipName(s.Subnet.Addr(), outer(s))
	case c == Kernel && s.Encap == topology.EncapUDP:
		return TUNName
	}
	return OverlayName
}

// IsOverlay reports whether a device of that name is ours.
func IsOverlay(name string) bool {
	_, ours := devices[name]
	return ours || name == OverlayPeerName
}

// Names are those of all devices that bpfnet makes.
func Names() []string { return append(slices.Sorted(maps.Keys(devices)), OverlayPeerName) }
