// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// OverlayName is the overlay device; in the modes without a kernel tunnel device
// it is one end of a veth whose other end is OverlayPeerName.
const (
	OverlayName     = "bpfnet0"
	OverlayPeerName = "bpfnet0p"
)

// Device is the overlay device as it stands. The zero Device is none.
type Device struct {
	Ifindex int
	Name    string
	MAC     topology.MAC // in vxlan mode this node's VTEP MAC, to be published
}

func deviceOf(link netlink.Link) Device {
	a := link.Attrs()
	return Device{Ifindex: a.Index, Name: a.Name, MAC: macOf(a.HardwareAddr)}
}

// EnsureOverlay makes the overlay device that s asks for and returns it: a vxlan
// device in vxlan mode, a veth in ipip and udp mode, none (and the zero Device)
// in host-gw mode. A right device is adopted and only what differs is written; a
// wrong one is replaced. The MAC is s.VTEP.MAC if set, else that of the device
// found, else a new random one.
func EnsureOverlay(s topology.Self) (Device, error) {
	k, err := openKernel()
	if err != nil {
		return Device{}, err
	}
	defer k.Close()
	old, err := k.overlayLink()
	if err != nil {
		return Device{}, err
	}
	want, err := overlayWanted(s, old)
	if err != nil {
		return Device{}, err
	}
	if old != nil && (want == nil || !k.sameOverlay(want, old)) {
		if err := k.LinkDel(old); err != nil && !gone(err) {
			return Device{}, fmt.Errorf("delete %s: %w", OverlayName, err)
		}
		old = nil
	}
	if want == nil {
		return Device{}, nil
	}
	if old == nil {
		if err := k.create(want); err != nil {
			return Device{}, err
		}
	}
	return k.configure(want, s.Subnet)
}

// Cleanup removes the overlay device and all routes of ours; neighbours and FDB
// entries go with the device. Nothing there is no error.
func Cleanup() error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	t := newTables()
	errs := []error{k.listRoutes(t)}
	for r := range t.routes {
		errs = append(errs, k.delRoute(r))
	}
	link, err := k.overlayLink()
	errs = append(errs, err)
	if link != nil {
		errs = append(errs, removal("device", deviceOf(link), k.LinkDel(link)))
	}
	return errors.Join(errs...)
}

func (d Device) String() string { return d.Name }

// overlayLink finds the overlay device; nil without error means that there is
// none. A device of another kind under that name is not ours to delete.
func (k kernel) overlayLink() (netlink.Link, error) {
	link, err := k.LinkByName(OverlayName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get link %s: %w", OverlayName, err)
	}
	switch link.(type) {
	case *netlink.Vxlan, *netlink.Veth:
		return link, nil
	}
	return nil, fmt.Errorf("%s is a %s device that bpfnet did not make: rename or remove it", OverlayName, link.Type())
}

// overlayWanted is the device to create; nil where the mode has none.
func overlayWanted(s topology.Self, old netlink.Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = OverlayName, s.MTU
	// Given at creation, so that the kernel marks it NET_ADDR_SET and udev's
	// MACAddressPolicy leaves it alone.
	attrs.HardwareAddr = hardwareAddr(overlayMAC(s, old))
	switch s.Encap {
	case topology.EncapNone:
		return nil, nil
	case topology.EncapVXLAN:
		if s.Port == 0 {
			return nil, fmt.Errorf("create %s: vxlan needs a UDP port", OverlayName)
		}
		return &netlink.Vxlan{
			LinkAttrs:    attrs,
			VxlanId:      int(s.VNI),
			VtepDevIndex: s.Uplink,
			SrcAddr:      s.Node.AsSlice(),
			Port:         int(s.Port),
			Learning:     false,
		}, nil
	case topology.EncapIPIP, topology.EncapUDP:
		return &netlink.Veth{LinkAttrs: attrs, PeerName: OverlayPeerName, PeerHardwareAddr: hardwareAddr(randomMAC())}, nil
	}
	return nil, fmt.Errorf("create %s: unknown encapsulation %q", OverlayName, s.Encap)
}

func overlayMAC(s topology.Self, old netlink.Link) topology.MAC {
	if s.VTEP.MAC != (topology.MAC{}) {
		return s.VTEP.MAC
	}
	if old != nil {
		return macOf(old.Attrs().HardwareAddr)
	}
	return randomMAC()
}

// randomMAC is a locally administered unicast address (IEEE 802-2014, 8.4).
func randomMAC() (m topology.MAC) {
	_, _ = rand.Read(m[:]) // never fails since Go 1.24
	m[0] = m[0]&^1 | 2
	return m
}

// sameOverlay compares what cannot be changed on a device that exists.
func (k kernel) sameOverlay(want, have netlink.Link) bool {
	switch w := want.(type) {
	case *netlink.Vxlan:
		h, ok := have.(*netlink.Vxlan)
		return ok && h.VxlanId == w.VxlanId && h.Port == w.Port && h.VtepDevIndex == w.VtepDevIndex &&
			h.SrcAddr.Equal(w.SrcAddr) && h.Group == nil && !h.Learning && !h.FlowBased && !h.GBP
	case *netlink.Veth:
		peer, err := k.LinkByName(OverlayPeerName)
		return have.Type() == "veth" && err == nil && peer.Attrs().ParentIndex == have.Attrs().Index
	}
	return false
}

func (k kernel) create(want netlink.Link) error {
	err := k.LinkAdd(want)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("create %s: this kernel has no %s device: load its module, or choose another backend type: %w",
			OverlayName, want.Type(), err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("create %s: %s: %w", OverlayName, k.conflict(want), err)
	}
	return fmt.Errorf("create %s: %w", OverlayName, err)
}

// conflict says who is in the way of a device that the kernel refuses with
// EEXIST: a VNI and port are held by one device in a namespace.
func (k kernel) conflict(want netlink.Link) string {
	vxlan, ok := want.(*netlink.Vxlan)
	if !ok {
		return "a device " + OverlayPeerName + " exists that bpfnet did not make: rename or remove it"
	}
	links, _ := rtnl.List("links", k.LinkList) // the name only makes the error better
	for _, l := range links {
		if other, ok := l.(*netlink.Vxlan); ok && other.VxlanId == vxlan.VxlanId && other.Port == vxlan.Port {
			return fmt.Sprintf("device %s already has VNI %d on port %d: stop what made it and run \"ip link delete %s\", or choose another VNI",
				other.Name, other.VxlanId, other.Port, other.Name)
		}
	}
	return "another device has its name, or its VNI and port"
}

// configure sets what can be changed on a device that exists.
func (k kernel) configure(want netlink.Link, subnet netip.Prefix) (Device, error) {
	ends := []string{OverlayName}
	if want.Type() == "veth" {
		ends = []string{OverlayPeerName, OverlayName}
	}
	for _, name := range ends {
		if err := k.configureLink(name, want); err != nil {
			return Device{}, err
		}
	}
	link, err := k.LinkByName(OverlayName)
	if err != nil {
		return Device{}, fmt.Errorf("get link %s: %w", OverlayName, err)
	}
	return deviceOf(link), k.ensureAddr(link, netip.PrefixFrom(subnet.Addr(), subnet.Addr().BitLen()))
}
