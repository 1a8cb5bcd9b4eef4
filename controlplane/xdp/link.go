// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Features are enum netdev_xdp_act of include/uapi/linux/netdev.h.
type Features uint64

const (
	actBasic   Features = 1 << 0 // NETDEV_XDP_ACT_BASIC
	actRxFrags Features = 1 << 5 // NETDEV_XDP_ACT_RX_SG
)

// Link is what there is to know of an uplink.
type Link struct {
	Kernel   uint32 // version<<16 | patch level<<8 | sublevel
	MAC      topology.MAC
	Tunnels  bool // the network has any
	Driver   string
	Hardware bool     // on a PCI bus
	Known    bool     // the kernel tells Features (6.3)
	Features Features // of its native XDP
}

// missing is why there can be no XDP program at all, or "".
func (l Link) missing() string {
	switch {
	case !l.Tunnels:
		return "this network has no tunnels"
	case l.MAC == topology.MAC{}:
		return "the uplink has no Ethernet address"
	case l.Kernel < fragsKernel:
		return "XDP for packets in several buffers needs Linux 5.18"
	}
	return ""
}

// pciAddress is how ethtool names a device's place on a PCI bus.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// Look asks the kernel about the uplink. What it does not tell is left zero, which Choose takes for no.
func Look(ifindex int, name string, mac topology.MAC, tunnels bool) (Link, error) {
	l := Link{MAC: mac, Tunnels: tunnels}
	var err error
	if l.Kernel, err = features.LinuxVersionCode(); err != nil {
		return l, fmt.Errorf("read kernel version: %w", err)
	}
	if err = l.askDriver(name); err != nil {
		return l, fmt.Errorf("ask driver of %s: %w", name, err)
	}
	if l.Features, l.Known, err = askFeatures(ifindex); err != nil {
		return l, fmt.Errorf("ask XDP features of %s: %w", name, err)
	}
	return l, nil
}

func (l *Link) askDriver(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err == nil {
		l.Driver = unix.ByteSliceToString(info.Driver[:])
		l.Hardware = pciAddress.MatchString(unix.ByteSliceToString(info.Bus_info[:]))
	} else if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	return errors.Join(err, unix.Close(fd))
}

// Of the generic netlink family netdev: include/uapi/linux/netdev.h.
const (
	netdevFamily      = "netdev"
	netdevVersion     = 1
	netdevDevGet      = 1 // NETDEV_CMD_DEV_GET
	netdevIfindex     = 1 // NETDEV_A_DEV_IFINDEX
	netdevXDPFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES
)

// askFeatures is false where the kernel has no such family.
func askFeatures(ifindex int) (Features, bool, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	request := nl.NewNetlinkRequest(int(family.ID), 0)
	// Not nl.Genlmsg, which leaves the header's reserved bytes to chance: this family insists that they are zero.
	header := []byte{netdevDevGet, netdevVersion, 0, 0}
	request.AddRawData(append(header, nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(ifindex))).Serialize()...))
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, false, err
	}
	for _, answer := range answers {
		attrs, err := nl.ParseRouteAttrAsMap(answer[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, false, err
		}
		if a, ok := attrs[netdevXDPFeatures]; ok && len(a.Value) >= 8 {
			return Features(nl.NativeEndian().Uint64(a.Value)), true, nil
		}
	}
	return 0, false, nil
}

// Mark is the Ethernet source by which from_network knows what from_wire has
// decapsulated: this node's own, the same after each restart. Whoever does not
// know the machine-id cannot guess it; and what comes with it from the wire
// from_wire drops. Locally administered, unicast (IEEE 802, 8.2).
func Mark(uplink topology.MAC) topology.MAC {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		id = nil // from_wire has to do
	}
	sum := sha256.Sum256(append(append(id, "from_wire"...), uplink[:]...))
	mac := topology.MAC(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}
