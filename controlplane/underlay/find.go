// SPDX-License-Identifier: Apache-2.0

package underlay

import (
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

// Uplink is the interface that leads to the other nodes.
type Uplink struct {
	Ifindex int
	Name    string
	MTU     int          // bytes of IP packet
	MAC     topology.MAC // zero where the link has no Ethernet address

	// This node's addresses on it, the outer sources; the zero Addr of a family
	// that is not wanted, or that Options.Either lets it lack.
	Addr  netip.Addr // IPv4
	Addr6 netip.Addr // IPv6

	// Where other nodes send to: those, unless Options say otherwise.
	PublicIP   netip.Addr
	PublicIPv6 netip.Addr
}

// Addrs are the node's addresses on the uplink, that of IPv4 first.
func (u Uplink) Addrs() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{u.Addr, u.Addr6}, func(a netip.Addr) bool { return !a.IsValid() })
}

func (u Uplink) String() string {
	return fmt.Sprintf("%s %v (%s), MTU %d", u.Name, u.Addrs(), u.MAC, u.MTU)
}

// Options say which interface to take, in flanneld's terms and with its rules
// (main.go, pkg/ipmatch/match.go): the values of Iface in order, then those of
// IfaceRegex, then CanReach; the first that fits is taken. Without any of the
// three it is the interface that has PublicIP, and without that too the
// interface of the default route.
type Options struct {
	Iface      []string   // names or addresses; like flanneld, the default route for an empty one
	IfaceRegex []string   // unanchored; matched with the addresses of all interfaces, then with the names
	CanReach   netip.Addr // the interface that the kernel would send to this address from
	PublicIP   netip.Addr // address to publish; may be one that NAT gives, where an interface is named
	PublicIPv6 netip.Addr // likewise of IPv6

	// Keep6 is this node's IPv6 address until now, which it keeps while it may be
	// chosen: the kernel lists new ones first.
	Keep6 netip.Addr

	// The families that the uplink is to have an address of; without any of
	// these, one of either. Either: one of the two is enough.
	IPv4, IPv6, Either bool
}

// missing names what the uplink would lack by these addresses, "" for nothing.
func (o Options) missing(u Uplink) string {
	no4, no6 := o.IPv4 && !u.Addr.IsValid(), o.IPv6 && !u.Addr6.IsValid()
	switch {
	case o.Either && len(u.Addrs()) > 0:
		return ""
	case no4 && no6:
		return "IPv4 or IPv6 address"
	case no4:
		return "IPv4 address"
	case no6:
		return "IPv6 address that other links could reach"
	}
	return ""
}

// Find chooses the uplink among the interfaces with an address of each wanted family; loopback
// and overlay devices, flannel's too, are none. The error says in one line why each choice
// failed.
func Find(o Options) (Uplink, error) {
	if !o.IPv4 && !o.IPv6 {
		o.IPv4, o.IPv6, o.Either = true, true, true
	}
	v, err := openView(o)
	if err != nil {
		return Uplink{}, err
	}
	defer v.Close()
	var failed error
	for _, choose := range choices(o) {
		up, err := choose(v)
		if err == nil {
			up.PublicIP, up.PublicIPv6 = public(up.Addr, o.PublicIP), public(up.Addr6, o.PublicIPv6)
			return up, nil
		}
		failed = join(failed, err)
	}
	return Uplink{}, fmt.Errorf("find uplink: %w", failed)
}

// public is the address to publish for one of this node's.
func public(own, given netip.Addr) netip.Addr {
	if own.IsValid() && given.IsValid() {
		return given
	}
	return own
}

// Check tells why nothing can go by the uplink just now: it is gone or down, or
// has lost some of its addresses, which are returned.
func (u Uplink) Check() (lost []netip.Addr, err error) {
	h, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByIndex(u.Ifindex)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, fmt.Errorf("uplink %s is gone", u.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("get uplink %s: %w", u.Name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("uplink %s is down: set it up", u.Name)
	}
	addrs, err := rtnl.List("addresses", func() ([]netlink.Addr, error) { return h.AddrList(link, unix.AF_UNSPEC) })
	if err != nil {
		return nil, err
	}
	for _, own := range u.Addrs() {
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return rtnl.Addr(a.IP) == own }) {
			lost = append(lost, own)
			err = join(err, fmt.Errorf("uplink %s has lost its address %s: give it one", u.Name, own))
		}
	}
	return lost, err
}

type choice func(*view) (Uplink, error)

func choices(o Options) []choice {
	var all []choice
	for _, s := range o.Iface {
		all = append(all, unlessEmpty(s, (*view).byNameOrAddr))
	}
	for _, s := range o.IfaceRegex {
		all = append(all, unlessEmpty(s, (*view).byRegex))
	}
	if o.CanReach.IsValid() {
		all = append(all, func(v *view) (Uplink, error) { return v.byReach(o.CanReach) })
	}
	switch {
	case len(all) > 0:
	case o.IPv4 && o.PublicIP.IsValid():
		all = append(all, func(v *view) (Uplink, error) { return v.byPublicIP("--public-ip", o.PublicIP) })
	case o.IPv6 && o.PublicIPv6.IsValid():
		all = append(all, func(v *view) (Uplink, error) { return v.byPublicIP("--public-ipv6", o.PublicIPv6) })
		if o.Either {
			all = append(all, (*view).byDefaultRoute) // it may be NAT's, of a network of IPv4
		}
	}
	if len(all) == 0 {
		all = append(all, (*view).byDefaultRoute)
	}
	return all
}

// unlessEmpty is what an interface is chosen by, or the default route for the
// empty string, as flanneld has it: unit files give --iface=$IFACE.
func unlessEmpty(s string, by func(*view, string) (Uplink, error)) choice {
	if s == "" {
		return (*view).byDefaultRoute
	}
	return func(v *view) (Uplink, error) { return by(v, s) }
}

// join is errors.Join on one line.
func join(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w; %w", a, b)
}

var errNoDefaultRoute = errors.New("there is no default route: name the interface with --iface NAME or --iface-can-reach ADDRESS")
