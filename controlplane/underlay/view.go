// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// view is what the choice of the uplink looks at.
type view struct {
	*netlink.Handle
	ifaces []iface
}

// iface is an interface that could be the uplink.
type iface struct {
	Uplink              // without addresses
	addrs  []netip.Addr // that may be chosen, the preferred ones first
	all    []netip.Addr // that may be named
}

func (i iface) at(addr netip.Addr) Uplink {
	up := i.Uplink
	up.Addr = addr
	return up
}

func (i iface) String() string { return fmt.Sprintf("%s %v", i.Name, i.addrs) }

func openView() (*view, error) {
	h, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	v := &view{Handle: h}
	if err := v.list(); err != nil {
		h.Close()
		return nil, err
	}
	return v, nil
}

func (v *view) list() error {
	links, err := rtnl.List("links", v.LinkList)
	if err != nil {
		return err
	}
	addrs, err := rtnl.List("addresses", func() ([]netlink.Addr, error) { return v.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return err
	}
	byLink := map[int][]netlink.Addr{}
	for _, a := range addrs {
		byLink[a.LinkIndex] = append(byLink[a.LinkIndex], a)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || dataplane.IsOverlay(a.Name) || flannels(a.Name) {
			continue
		}
		up := Uplink{Ifindex: a.Index, Name: a.Name, MTU: a.MTU}
		if len(a.HardwareAddr) == len(up.MAC) {
			up.MAC = topology.MAC(a.HardwareAddr)
		}
		i := iface{Uplink: up, addrs: usable(byLink[a.Index])}
		for _, addr := range byLink[a.Index] {
			i.all = append(i.all, rtnl.Addr(addr.IP))
		}
		v.ifaces = append(v.ifaces, i)
	}
	return nil
}

// flannels tells flanneld's devices, which a node that is changing over to
// bpfnet still has: they carry container addresses too.
func flannels(name string) bool {
	return strings.HasPrefix(name, "flannel.") || strings.HasPrefix(name, "flannel-") || name == "flannel0"
}

// usable leaves out deprecated addresses and puts global ones before link-local
// ones, then those without an end before those with a lifetime (of DHCP); else
// the kernel's order stays. flanneld takes the first (pkg/ip/iface.go,
// GetInterfaceIP4Addrs).
func usable(addrs []netlink.Addr) []netip.Addr {
	rank := func(a netlink.Addr) int {
		n := 0
		if !a.IP.IsGlobalUnicast() {
			n += 2
		}
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			n++
		}
		return n
	}
	fit := slices.DeleteFunc(slices.Clone(addrs), func(a netlink.Addr) bool {
		return !a.IP.IsGlobalUnicast() && !a.IP.IsLinkLocalUnicast() || a.Flags&unix.IFA_F_DEPRECATED != 0
	})
	slices.SortStableFunc(fit, func(a, b netlink.Addr) int { return rank(a) - rank(b) })
	out := make([]netip.Addr, len(fit))
	for i, a := range fit {
		out[i] = rtnl.Addr(a.IP)
	}
	return out
}

func (v *view) byNameOrAddr(s string) (Uplink, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if up, ok := v.withAddr(addr); ok {
			return up, nil
		}
		return Uplink{}, fmt.Errorf("--iface %s: no interface has this address (%s)", s, v)
	}
	i := slices.IndexFunc(v.ifaces, func(i iface) bool { return i.Name == s })
	if i < 0 {
		return Uplink{}, fmt.Errorf("--iface %s: no such interface (%s)", s, v)
	}
	return v.first("--iface "+s, v.ifaces[i])
}

func (v *view) byRegex(s string) (Uplink, error) {
	re, err := regexp.Compile(s)
	if err != nil {
		return Uplink{}, fmt.Errorf("--iface-regex: %w", err)
	}
	for _, i := range v.ifaces {
		for _, a := range i.addrs {
			if re.MatchString(a.String()) {
				return i.at(a), nil
			}
		}
	}
	for _, i := range v.ifaces {
		if re.MatchString(i.Name) && len(i.addrs) > 0 {
			return i.at(i.addrs[0]), nil
		}
	}
	return Uplink{}, fmt.Errorf("--iface-regex %s: matches no interface (%s)", s, v)
}

func (v *view) byReach(to netip.Addr) (Uplink, error) {
	r, err := lookUp(v.Handle, to)
	if err != nil {
		return Uplink{}, fmt.Errorf("--iface-can-reach: %w", err)
	}
	i := v.index(r.LinkIndex)
	src := rtnl.Addr(r.Src)
	if i < 0 || !src.Is4() {
		return Uplink{}, fmt.Errorf("--iface-can-reach %s: the way there has no interface with an IPv4 address (%s)", to, v)
	}
	return v.ifaces[i].at(src), nil
}

func (v *view) byPublicIP(addr netip.Addr) (Uplink, error) {
	if up, ok := v.withAddr(addr); ok {
		return up, nil
	}
	return Uplink{}, fmt.Errorf("no interface has address %s: use --iface NAME or --public-ip with an address of this node (%s)", addr, v)
}

// byDefaultRoute takes the default route with the lowest metric.
func (v *view) byDefaultRoute() (Uplink, error) {
	routes, err := rtnl.List("routes", func() ([]netlink.Route, error) { return v.RouteList(nil, unix.AF_INET) })
	if err != nil {
		return Uplink{}, err
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Type != unix.RTN_UNICAST || r.Dst != nil && !r.Dst.IP.IsUnspecified()
	})
	if len(routes) == 0 {
		return Uplink{}, errNoDefaultRoute
	}
	best := slices.MinFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	ifindex := best.LinkIndex
	if len(best.MultiPath) > 0 {
		ifindex = best.MultiPath[0].LinkIndex
	}
	i := v.index(ifindex)
	if i < 0 {
		return Uplink{}, fmt.Errorf("the default route leaves by link %d, which is no uplink: use --iface NAME (%s)", ifindex, v)
	}
	return v.first("default route", v.ifaces[i])
}

// first is the interface with the first of its addresses.
func (v *view) first(why string, i iface) (Uplink, error) {
	if len(i.addrs) == 0 {
		return Uplink{}, fmt.Errorf("%s: %s has no IPv4 address (%s)", why, i.Name, v)
	}
	return i.at(i.addrs[0]), nil
}

func (v *view) withAddr(addr netip.Addr) (Uplink, bool) {
	for _, i := range v.ifaces {
		if slices.Contains(i.all, addr) {
			return i.at(addr), true
		}
	}
	return Uplink{}, false
}

func (v *view) index(ifindex int) int {
	return slices.IndexFunc(v.ifaces, func(i iface) bool { return i.Ifindex == ifindex })
}

// String lists for an error what there is to choose from.
func (v *view) String() string {
	var names []string
	for _, i := range v.ifaces {
		if len(i.addrs) > 0 {
			names = append(names, i.String())
		}
	}
	if len(names) == 0 {
		return "there is none with an IPv4 address"
	}
	return "there are " + strings.Join(names, ", ")
}
