// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// Carrier is who encapsulates the packets that the kernel routes into the overlay.
type Carrier int

// The carriers: the eBPF programs, or the kernel's own tunnel devices.
const (
	Programs Carrier = iota
	Kernel
)

// Device is the overlay device as it stands. The zero Device is none.
type Device struct {
	Ifindex     int
	Name        string
	MAC         topology.MAC // in vxlan mode this node's VTEP MAC, to be published
	PeerIfindex int          // of a veth's other end, else 0
}

func deviceOf(link netlink.Link) Device {
	a := link.Attrs()
	d := Device{Ifindex: a.Index, Name: a.Name, MAC: macOf(a.HardwareAddr)}
	if link.Type() == "veth" {
		d.PeerIfindex = a.ParentIndex // IFLA_LINK, which for a veth is its peer
	}
	return d
}

// EnsureOverlay makes the overlay device that s asks for and returns it; see
// [Carrier] and the package's table. None, and the zero Device, in host-gw mode.
// A right device is adopted and only what differs is written; a wrong one of the
// same name is replaced. The MAC is s.VTEP.MAC if set, else that of the device
// found, else a new random one. Devices of other names stay, for routes may lead
// into them until [View.Apply] has moved those: then comes [RemoveOthers].
//
// A dual-stack node calls it for each of its two networks. Where they share a device
// (in ipip) both have to give one MTU.
func EnsureOverlay(s topology.Self, c Carrier) (Device, error) {
	k, err := openKernel()
	if err != nil {
		return Device{}, err
	}
	defer k.Close()
	return k.ensureOverlay(s, c)
}

func (k kernel) ensureOverlay(s topology.Self, c Carrier) (Device, error) {
	name := overlayName(s, c)
	if name == "" {
		return Device{}, nil
	}
	if err := carries(s, c); err != nil {
		return Device{}, err
	}
	old, err := k.overlayLink(name)
	if err != nil {
		return Device{}, err
	}
	if old == nil {
		if old, err = k.takeOver(s, c); err != nil {
			return Device{}, err
		}
	}
	want, err := overlayWanted(s, c, old)
	if err != nil {
		return Device{}, err
	}
	if old != nil && !k.sameOverlay(want, old) {
		if err := k.LinkDel(old); err != nil && !gone(err) {
			return Device{}, fmt.Errorf("delete %s: %w", name, err)
		}
		old = nil
	}
	if old == nil {
		if err := k.create(want); err != nil {
			return Device{}, err
		}
	}
	return k.configure(want, s)
}

// sixToFour is RFC 3056's, which sit sends to the IPv4 address in it (check_6rd(), net/ipv6/sit.c).
var sixToFour = netip.MustParsePrefix("2002::/16")

// TakesZeroChecksum reports whether this node's vxlan device over IPv6 takes
// packets without a UDP checksum (RFC 6935). Ours does, also one that is yet to be made; the one that
// flanneld or an older bpfnet has made, whatever its name by now, does not, and the kernel changes that on no device there is.
func TakesZeroChecksum(vni uint32) (bool, error) {
	k, err := openKernel()
	if err != nil {
		return false, err
	}
	defer k.Close()
	for _, name := range []string{Overlay6Name, flannel6Name(vni)} {
		link, err := k.link(name)
		if err != nil {
			return false, err
		}
		if vxlan, ok := link.(*netlink.Vxlan); ok {
			return vxlan.UDP6ZeroCSumRx, nil
		}
	}
	return true, nil
}

// carries refuses what no device of ours can carry.
func carries(s topology.Self, c Carrier) error {
	f := familyOf(s.Subnet.Addr())
	v6 := f.number == unix.AF_INET6
	switch {
	case v6 && s.Encap == topology.EncapUDP:
		return errors.New("the backend udp carries IPv4 only, as flannel's does: choose vxlan, ipip or host-gw for an IPv6 network")
	case overlayName(s, c) == SITName && sixToFour.Overlaps(s.Subnet):
		return fmt.Errorf("the kernel's sit device takes %s for 6to4 addresses: choose the dataplane ebpf, or another network", s.Subnet)
	case s.MTU < f.minMTU:
		return fmt.Errorf("packets of %d bytes are too small for %s, which needs %d: raise the uplink's MTU", s.MTU, s.Subnet, f.minMTU)
	}
	return nil
}

func (d Device) String() string { return d.Name }

// overlayLink finds a device of ours by its name; nil without error means that
// there is none. A device of another kind under that name is not ours to delete.
func (k kernel) overlayLink(name string) (netlink.Link, error) {
	link, err := k.link(name)
	if err != nil || link == nil {
		return nil, err
	}
	if !slices.Contains(devices[name], link.Type()) {
		return nil, fmt.Errorf("%s is a %s device that bpfnet did not make: rename or remove it", name, link.Type())
	}
	return link, nil
}

// link is LinkByName with nil, and no error, for what is not there.
func (k kernel) link(name string) (netlink.Link, error) {
	link, err := k.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get link %s: %w", name, err)
	}
	return link, nil
}

// overlayWanted is the device to create. old is what stands under its name, nil for none.
func overlayWanted(s topology.Self, c Carrier, old netlink.Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = overlayName(s, c), s.MTU
	switch {
	case s.Encap == topology.EncapVXLAN && s.Port == 0:
		return nil, fmt.Errorf("create %s: vxlan needs a UDP port", attrs.Name)
	case s.Encap == topology.EncapVXLAN:
		attrs.HardwareAddr = hardwareAddr(overlayMAC(s, old))
		return &netlink.Vxlan{
			LinkAttrs:    attrs,
			VxlanId:      int(s.VNI),
			VtepDevIndex: s.Uplink,
			SrcAddr:      s.Node.AsSlice(),
			Port:         int(s.Port),
			Learning:     false,
			// Over IPv6 it sends checksums, as flanneld's does, which takes nothing without. It takes
			// both itself (RFC 6935): a node's eBPF programs may send none.
			UDP6ZeroCSumRx: s.Node.Is6(),
		}, nil
	case c == Programs && (s.Encap == topology.EncapIPIP || s.Encap == topology.EncapUDP):
		attrs.HardwareAddr = hardwareAddr(overlayMAC(s, old))
		return &netlink.Veth{LinkAttrs: attrs, PeerName: OverlayPeerName, PeerHardwareAddr: hardwareAddr(randomMAC())}, nil
	case s.Encap == topology.EncapIPIP:
		return ipipWanted(attrs, outer(s)), nil
	case s.Encap == topology.EncapUDP:
		return &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}, nil
	}
	return nil, fmt.Errorf("create %s: unknown encapsulation %q", attrs.Name, s.Encap)
}

// overlayMAC is given at creation, so that the kernel marks it NET_ADDR_SET and
// udev's MACAddressPolicy leaves it alone.
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
		// UDP6ZeroCSumRx is not compared: flanneld's device, or an older bpfnet's, has it not, which is not worth a gap (TakesZeroChecksum).
		h, ok := have.(*netlink.Vxlan)
		return ok && h.VxlanId == w.VxlanId && h.Port == w.Port && h.VtepDevIndex == w.VtepDevIndex &&
			h.SrcAddr.Equal(w.SrcAddr) && h.Group == nil && !h.Learning && !h.FlowBased && !h.GBP
	case *netlink.Veth:
		peer, err := k.LinkByName(OverlayPeerName)
		return have.Type() == "veth" && err == nil && peer.Attrs().ParentIndex == have.Attrs().Index
	case *netlink.Iptun:
		h, ok := have.(*netlink.Iptun)
		return ok && h.Local.Equal(w.Local) && anyRemote(h.Remote) && h.PMtuDisc == w.PMtuDisc && !h.FlowBased
	case *netlink.Sittun:
		h, ok := have.(*netlink.Sittun)
		return ok && h.Local.Equal(w.Local) && anyRemote(h.Remote) && h.Ttl == w.Ttl && h.PMtuDisc == w.PMtuDisc && h.Proto == w.Proto
	case *netlink.Ip6tnl:
		h, ok := have.(*netlink.Ip6tnl)
		return ok && h.FlowBased && h.Proto == w.Proto
	case *netlink.Tuntap:
		h, ok := have.(*netlink.Tuntap)
		return ok && h.Mode == w.Mode
	}
	return false
}

func (k kernel) create(want netlink.Link) error {
	name := want.Attrs().Name
	if _, tun := want.(*netlink.Tuntap); tun {
		return fmt.Errorf("set up %s: it is not there: it is made by what copies its packets", name)
	}
	err := k.add(want)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("create %s: this kernel has no %s device: load its module, or choose another backend type%s: %w",
			name, want.Type(), orPrograms(want), err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("create %s: %s: %w", name, k.conflict(want), err)
	}
	return fmt.Errorf("create %s: %w", name, err)
}

// orPrograms is advice where our programs need no such device.
func orPrograms(want netlink.Link) string {
	switch want.(type) {
	case *netlink.Iptun, *netlink.Sittun, *netlink.Ip6tnl:
		return ", or the dataplane ebpf, which needs none"
	}
	return ""
}

// conflict says who is in the way of a device that the kernel refuses with
// EEXIST: a VNI and port are held by one device in a namespace, as are the ends
// of an IPIP tunnel, and there is one ip6tnl device that takes what is for no other.
func (k kernel) conflict(want netlink.Link) string {
	if _, veth := want.(*netlink.Veth); veth {
		return "a device " + OverlayPeerName + " exists that bpfnet did not make: rename or remove it"
	}
	links, _ := rtnl.List("links", k.LinkList) // the name only makes the error better
	for _, l := range links {
		if what := inTheWay(want, l); what != "" {
			return fmt.Sprintf("device %s already has %s: stop what made it and run \"ip link delete %s\"%s",
				l.Attrs().Name, what, l.Attrs().Name, orOther(want))
		}
	}
	return "another device has its name, or its ends"
}

// inTheWay is what of want another device has already.
func inTheWay(want, other netlink.Link) string {
	switch w := want.(type) {
	case *netlink.Vxlan:
		if o, ok := other.(*netlink.Vxlan); ok && o.VxlanId == w.VxlanId && o.Port == w.Port && over6(o) == over6(w) {
			return fmt.Sprintf("VNI %d on port %d", w.VxlanId, w.Port)
		}
	case *netlink.Iptun:
		if o, ok := other.(*netlink.Iptun); ok && o.Local.Equal(w.Local) && anyRemote(o.Remote) {
			return "the local address " + w.Local.String()
		}
	case *netlink.Sittun:
		if o, ok := other.(*netlink.Sittun); ok && o.Local.Equal(w.Local) && anyRemote(o.Remote) {
			return "the local address " + w.Local.String()
		}
	case *netlink.Ip6tnl:
		if o, ok := other.(*netlink.Ip6tnl); ok && o.FlowBased {
			return "all tunnels over IPv6 that are no other device's (external)"
		}
	}
	return ""
}

// over6 reports whether a vxlan device's outer packets are IPv6's: it then stands
// beside one of IPv4 with the same VNI and port (vxlan_vni_in_use, drivers/net/vxlan/vxlan_core.c).
func over6(v *netlink.Vxlan) bool { return rtnl.Addr(v.SrcAddr).Is6() || rtnl.Addr(v.Group).Is6() }

// anyRemote reports whether a tunnel device has no remote: the kernel then says 0.0.0.0.
func anyRemote(remote net.IP) bool { return remote == nil || remote.IsUnspecified() }

func orOther(want netlink.Link) string {
	if _, vxlan := want.(*netlink.Vxlan); vxlan {
		return ", or choose another VNI"
	}
	return ""
}

// configure sets what can be changed on a device that exists.
func (k kernel) configure(want netlink.Link, s topology.Self) (Device, error) {
	name := want.Attrs().Name
	ends := []string{name}
	if want.Type() == "veth" {
		ends = []string{OverlayPeerName, name}
	}
	for _, end := range ends {
		if err := k.configureLink(end, want, s); err != nil {
			return Device{}, err
		}
	}
	if want.Type() == "veth" {
		if err := ensureOffloads(name, wantOffloads(s.Encap)); err != nil {
			return Device{}, err
		}
	}
	link, err := k.LinkByName(name)
	if err != nil {
		return Device{}, fmt.Errorf("get link %s: %w", name, err)
	}
	return deviceOf(link), k.ensureAddr(link, netip.PrefixFrom(s.Subnet.Addr(), s.Subnet.Addr().BitLen()))
}
