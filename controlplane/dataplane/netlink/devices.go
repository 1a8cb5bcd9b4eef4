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
	IPIPName        = "bpfnet-ipip" // the kernel's ipip device
	TUNName         = udptun.DeviceName
)

// devices are all overlay devices, with the types of link that are ours under
// these names; the veth's other end goes with it.
var devices = map[string][]string{
	OverlayName: {"vxlan", "veth"},
	IPIPName:    {"ipip"},
	TUNName:     {"tuntap"},
}

// overlayName is the device that serves an encapsulation; "" where none does.
func overlayName(e topology.Encap, c Carrier) string {
	switch {
	case e == topology.EncapNone:
		return ""
	case c == Kernel && e == topology.EncapIPIP:
		return IPIPName
	case c == Kernel && e == topology.EncapUDP:
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
