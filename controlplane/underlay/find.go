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
	Ifindex  int
	Name     string
	MTU      int          // bytes of IP packet
	MAC      topology.MAC // zero where the link has no Ethernet address
	Addr     netip.Addr   // this node's address on it, the outer source
	PublicIP netip.Addr   // where other nodes send to: Addr, unless Options.PublicIP says otherwise
}

func (u Uplink) String() string {
	return fmt.Sprintf("%s %s (%s), MTU %d", u.Name, u.Addr, u.MAC, u.MTU)
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
}

// Find chooses the uplink among the interfaces with an IPv4 address; loopback
// and overlay devices, flannel's too, are none. The error says in one line why each choice
// failed.
func Find(o Options) (Uplink, error) {
	v, err := openView()
	if err != nil {
		return Uplink{}, err
	}
	defer v.Close()
	var failed error
	for _, choose := range choices(o) {
		up, err := choose(v)
		if err == nil {
			up.PublicIP = up.Addr
			if o.PublicIP.IsValid() {
				up.PublicIP = o.PublicIP
			}
			return up, nil
		}
		failed = join(failed, err)
	}
	return Uplink{}, fmt.Errorf("find uplink: %w", failed)
}

// Check tells why nothing can go by the uplink just now: it is gone, down or
// without its address.
func (u Uplink) Check() error {
	h, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByIndex(u.Ifindex)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("uplink %s is gone", u.Name)
	}
	if err != nil {
		return fmt.Errorf("get uplink %s: %w", u.Name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("uplink %s is down: set it up", u.Name)
	}
	addrs, err := rtnl.List("addresses", func() ([]netlink.Addr, error) { return h.AddrList(link, unix.AF_INET) })
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return rtnl.Addr(a.IP) == u.Addr }) {
		return fmt.Errorf("uplink %s has lost its address %s: give it one", u.Name, u.Addr)
	}
	return nil
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
	if len(all) == 0 && o.PublicIP.IsValid() {
		all = append(all, func(v *view) (Uplink, error) { return v.byPublicIP(o.PublicIP) })
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
