// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// family is what differs between the families of containers' addresses.
type family struct {
	number   int // unix.AF_*
	metric   int // of our routes
	flannels int // of flanneld's, who gives none: the kernel's default
	minMTU   int // that a link has to carry, bytes
	address  int // flags of the overlay device's address

	// add brings a route of ours into force at once, before what is there or in its place.
	add, change func(kernel, route, attrs) error
	spread      bool // see spread.go
}

// In IPv6 a second route with the same metric would share the packets
// (rt6_qualify_for_ecmp, include/net/ip6_route.h), and none is put in front of
// another; so ours have a metric of their own, lower than what people and
// routing daemons give (the kernel's default is IP6_RT_PRIO_USER, 1024), and
// replace each other. The address needs no duplicate address detection: nobody
// else is on the device.
var (
	families = []family{ipv4, ipv6}
	ipv4     = family{
		number: unix.AF_INET,
		minMTU: 68 /* RFC 791 */, add: kernel.prepend, change: kernel.replace, spread: true,
	}
	ipv6 = family{
		number: unix.AF_INET6, metric: RouteProtocol, flannels: 1024,
		minMTU: 1280 /* RFC 8200, section 5 */, address: unix.IFA_F_NODAD, add: kernel.replaceOnLink, change: kernel.replaceOnLink,
	}
)

func familyOf(a netip.Addr) family {
	if a.Is6() {
		return ipv6
	}
	return ipv4
}

// prepend is NLM_F_CREATE without EXCL, REPLACE or APPEND, which iproute2 calls
// "prepend" (fib_table_insert, net/ipv4/fib_trie.c): a route that is not ours,
// such as flannel's, is back in force when ours goes.
func (k kernel) prepend(r route, a attrs) error {
	return k.writeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, r, a)
}

func (k kernel) replace(r route, a attrs) error {
	return k.writeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r, a)
}

// replaceOnLink helps IPv6 over its refusal of a gateway that a route leads to by
// another device (ip6_route_check_nh_onlink, net/ipv6/route.c): the peer's until
// now, or somebody's to more than its subnet. While the kernel looks there is one to
// the gateway itself.
func (k kernel) replaceOnLink(r route, a attrs) error {
	err := k.replace(r, a)
	if !errors.Is(err, unix.EINVAL) || !r.dst.Contains(r.gateway) {
		return err
	}
	gateway := r
	gateway.dst, gateway.gateway = netip.PrefixFrom(r.gateway, r.gateway.BitLen()), netip.Addr{}
	if err := k.replace(gateway, attrs{}); err != nil {
		return err
	}
	return errors.Join(k.replace(r, a), k.delRoute(gateway))
}
