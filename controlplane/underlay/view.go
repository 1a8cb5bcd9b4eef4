// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"errors"
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
	Options
	ifaces []iface
}

// iface is an interface that could be the uplink.
type iface struct {
	Uplink        // without addresses
	v4, v6 usable // of the wanted families
}

// usable are an interface's addresses of one family.
type usable struct {
	addrs     []netip.Addr // that may be chosen, the preferred ones first
	all       []netip.Addr // that may be named
	temporary []netip.Addr // of all, those that are soon others (RFC 8981)
}

// choose is the first of the wanted addresses that is among u, else the one u prefers.
func (u usable) choose(wanted ...netip.Addr) netip.Addr {
	for _, a := range wanted {
		if slices.Contains(u.all, a) {
			return a
		}
	}
	if len(u.addrs) == 0 {
		return netip.Addr{}
	}
	return u.addrs[0]
}

func (i iface) addrs() []netip.Addr { return slices.Concat(i.v4.addrs, i.v6.addrs) }

func (i iface) String() string { return fmt.Sprintf("%s %v", i.Name, i.addrs()) }

func openView(o Options) (*view, error) {
	h, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	v := &view{Handle: h, Options: o}
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
	v4, err := v.listAddrs(v.IPv4, unix.AF_INET)
	if err != nil {
		return err
	}
	v6, err := v.listAddrs(v.IPv6, unix.AF_INET6)
	if err != nil {
		return err
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
		v.ifaces = append(v.ifaces, iface{Uplink: up, v4: usableOf(v4[a.Index], netip.Addr{}), v6: usableOf(v6[a.Index], v.Keep6)})
	}
	return nil
}

// listAddrs lists a family's addresses by link; none of a family that is not wanted.
func (v *view) listAddrs(wanted bool, family int) (map[int][]netlink.Addr, error) {
	byLink := map[int][]netlink.Addr{}
	if !wanted {
		return byLink, nil
	}
	addrs, err := rtnl.List("addresses", func() ([]netlink.Addr, error) { return v.AddrList(nil, family) })
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) { // a kernel without IPv6
		return byLink, nil
	}
	for _, a := range addrs {
		byLink[a.LinkIndex] = append(byLink[a.LinkIndex], a)
	}
	return byLink, err
}

// flannels tells flanneld's devices, which a node that is changing over to
// bpfnet still has: they carry container addresses too.
func flannels(name string) bool {
	return strings.HasPrefix(name, "flannel.") || strings.HasPrefix(name, "flannel-") || name == "flannel0"
}

// usableOf leaves out deprecated addresses and puts global ones before link-local
// ones, then those without an end before those with a lifetime (of DHCP, or of
// SLAAC), then temporary ones; else the kernel's order stays. The one to keep is
// before all. flanneld takes the
// first (pkg/ip/iface.go, compareAddrs), but also what in IPv6 is none: an address of
// one link alone, or one that may be another's too for all that is known yet.
func usableOf(addrs []netlink.Addr, keep netip.Addr) usable {
	rank := func(a netlink.Addr) int {
		if rtnl.Addr(a.IP) == keep {
			return 0
		}
		n := 1
		if !a.IP.IsGlobalUnicast() {
			n += 4
		}
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			n += 2
		}
		if temporary(a) {
			n++
		}
		return n
	}
	var u usable
	for _, a := range addrs {
		u.all = append(u.all, rtnl.Addr(a.IP))
		if temporary(a) {
			u.temporary = append(u.temporary, rtnl.Addr(a.IP))
		}
	}
	fit := slices.DeleteFunc(slices.Clone(addrs), func(a netlink.Addr) bool { return !fits(a) })
	slices.SortStableFunc(fit, func(a, b netlink.Addr) int { return rank(a) - rank(b) })
	for _, a := range fit {
		u.addrs = append(u.addrs, rtnl.Addr(a.IP))
	}
	return u
}

// fits tells whether an address may be chosen. One under duplicate address
// detection cannot be sent from yet, unless it is optimistic (RFC 4429).
func fits(a netlink.Addr) bool {
	unsure := a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
	return a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) == 0 && !unsure &&
		(a.IP.IsGlobalUnicast() || a.IP.IsLinkLocalUnicast() && a.IP.To4() != nil)
}

// temporary: of IPv4 addresses the flag means another thing (IFA_F_SECONDARY).
func temporary(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TEMPORARY != 0 && a.IP.To4() == nil }

// take is an interface as uplink, by addresses that are wanted where they are
// its own, else by the ones that are published, else by the ones it prefers.
func (v *view) take(why string, i iface, wanted ...netip.Addr) (Uplink, error) {
	up := i.Uplink
	up.Addr = i.v4.choose(append(wanted, v.PublicIP)...)
	up.Addr6 = i.v6.choose(append(wanted, v.PublicIPv6)...)
	if lacks := v.missing(up); lacks != "" {
		return Uplink{}, fmt.Errorf("%s: %s has no %s (%s)", why, i.Name, lacks, v)
	}
	return up, nil
}

func (v *view) byNameOrAddr(s string) (Uplink, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if i := v.withAddr(addr); i >= 0 {
			return v.take("--iface "+s, v.ifaces[i], addr)
		}
		return Uplink{}, fmt.Errorf("--iface %s: no interface has this address (%s)", s, v)
	}
	i := slices.IndexFunc(v.ifaces, func(i iface) bool { return i.Name == s })
	if i < 0 {
		return Uplink{}, fmt.Errorf("--iface %s: no such interface (%s)", s, v)
	}
	return v.take("--iface "+s, v.ifaces[i])
}

// byRegex matches addresses before names: with two families an interface of
// which addresses of both match, as flanneld does, before one of which one does.
func (v *view) byRegex(s string) (Uplink, error) {
	re, err := regexp.Compile(s)
	if err != nil {
		return Uplink{}, fmt.Errorf("--iface-regex: %w", err)
	}
	matching := func(addrs []netip.Addr) (all []netip.Addr) {
		for _, a := range addrs {
			if re.MatchString(a.String()) {
				all = append(all, a)
			}
		}
		return all
	}
	failed := fmt.Errorf("--iface-regex %s: matches no interface (%s)", s, v)
	for _, matches := range []func(iface) bool{
		func(i iface) bool { return len(matching(i.v4.addrs)) > 0 && len(matching(i.v6.addrs)) > 0 },
		func(i iface) bool { return len(matching(i.addrs())) > 0 },
		func(i iface) bool { return re.MatchString(i.Name) },
	} {
		for _, i := range v.ifaces {
			if !matches(i) {
				continue
			}
			up, err := v.take("--iface-regex "+s, i, matching(i.addrs())...)
			if err == nil {
				return up, nil
			}
			failed = err
		}
	}
	return Uplink{}, failed
}

// byReach takes the source address that the kernel would, but for one that is soon another.
func (v *view) byReach(to netip.Addr) (Uplink, error) {
	c, err := rtnl.Dial()
	if err != nil {
		return Uplink{}, err
	}
	defer c.Close()
	r, err := lookUp(c, to)
	if err != nil {
		return Uplink{}, fmt.Errorf("--iface-can-reach: %w", err)
	}
	why := fmt.Sprintf("--iface-can-reach %s", to)
	i := v.index(r.Ifindex)
	if i < 0 {
		return Uplink{}, fmt.Errorf("%s: the way there leaves by link %d, which is no uplink (%s)", why, r.Ifindex, v)
	}
	if slices.Contains(v.ifaces[i].v6.temporary, r.Src) {
		return v.take(why, v.ifaces[i])
	}
	return v.take(why, v.ifaces[i], r.Src)
}

func (v *view) byPublicIP(flag string, addr netip.Addr) (Uplink, error) {
	if i := v.withAddr(addr); i >= 0 {
		return v.take(flag, v.ifaces[i], addr)
	}
	return Uplink{}, fmt.Errorf("no interface has address %s: use --iface NAME or %s with an address of this node (%s)", addr, flag, v)
}

// byDefaultRoute takes the default route with the lowest metric, that of IPv4 first.
func (v *view) byDefaultRoute() (Uplink, error) {
	var failed error
	for _, f := range []struct {
		wanted bool
		number int
	}{{v.IPv4, unix.AF_INET}, {v.IPv6, unix.AF_INET6}} {
		if !f.wanted {
			continue
		}
		up, err := v.byDefaultRouteOf(f.number)
		if err == nil {
			return up, nil
		}
		if failed == nil || errors.Is(failed, errNoDefaultRoute) {
			failed = err
		}
	}
	return Uplink{}, failed
}

func (v *view) byDefaultRouteOf(family int) (Uplink, error) {
	c, err := rtnl.Dial()
	if err != nil {
		return Uplink{}, err
	}
	defer c.Close()
	routes, err := c.Routes(family, func(r rtnl.Route) bool {
		return r.Type == unix.RTN_UNICAST && r.Dst.Bits() == 0 && r.Dst.Addr().IsUnspecified()
	})
	if err != nil {
		return Uplink{}, err
	}
	if len(routes) == 0 {
		return Uplink{}, errNoDefaultRoute
	}
	ifindex := slices.MinFunc(routes, func(a, b rtnl.Route) int { return a.Metric - b.Metric }).Ifindex
	i := v.index(ifindex)
	if i < 0 {
		return Uplink{}, fmt.Errorf("the default route leaves by link %d, which is no uplink: use --iface NAME (%s)", ifindex, v)
	}
	return v.take("default route", v.ifaces[i])
}

// withAddr is the index of the interface that has an address, -1 for none.
func (v *view) withAddr(addr netip.Addr) int {
	return slices.IndexFunc(v.ifaces, func(i iface) bool {
		return slices.Contains(i.v4.all, addr) || slices.Contains(i.v6.all, addr)
	})
}

func (v *view) index(ifindex int) int {
	return slices.IndexFunc(v.ifaces, func(i iface) bool { return i.Ifindex == ifindex })
}

// String lists for an error what there is to choose from.
func (v *view) String() string {
	var names []string
	for _, i := range v.ifaces {
		if len(i.addrs()) > 0 {
			names = append(names, i.String())
		}
	}
	switch {
	case len(names) > 0:
		return "there are " + strings.Join(names, ", ")
	case !v.IPv6:
		return "there is none with an IPv4 address"
	case !v.IPv4:
		return "there is none with an IPv6 address"
	}
	return "there is none with an address"
}
