// SPDX-License-Identifier: Apache-2.0

// Package blackhole has the kernel drop what is for an address of this node's
// subnet that nothing on the node has, as flanneld's --ip-blackhole-route does
// (AddBlackholeV4Route in its pkg/ip/iface.go). Without it such a packet follows
// the default route, and may come back by it.
//
// The route stands behind any other of the subnet, by its metric: flanneld's
// has none, and so cannot be added where a bridge has the subnet.
package blackhole

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// RouteProtocol marks the route ("ip route show proto 97"), apart from the
// dataplane's, which are all those of peers.
const RouteProtocol = 0x61

// metric is above those that people and DHCP clients give.
const metric = 1 << 16

// Ensure has the one blackhole route of ours be that of subnet, and reports
// whether it was not; the zero Prefix is for none.
func Ensure(subnet netip.Prefix) (changed bool, err error) {
	h, err := rtnl.Open()
	if err != nil {
		return false, err
	}
	defer h.Close()
	all, err := rtnl.List("routes", func() ([]netlink.Route, error) {
		return h.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return false, err
	}
	want, there := route(subnet), false
	var errs []error
	for _, r := range all {
		if r.Type == unix.RTN_BLACKHOLE && rtnl.Prefix(r.Dst) == subnet && r.Priority == metric {
			there = true
			continue
		}
		changed = true
		errs = append(errs, failed("delete", r, h.RouteDel(&r)))
	}
	if !there && subnet.IsValid() {
		changed = true
		errs = append(errs, failed("add", want, h.RouteAdd(&want)))
	}
	return changed, errors.Join(errs...)
}

// Cleanup removes the route. None there is no error.
func Cleanup() error {
	_, err := Ensure(netip.Prefix{})
	return err
}

func route(subnet netip.Prefix) netlink.Route {
	r := netlink.Route{Type: unix.RTN_BLACKHOLE, Protocol: RouteProtocol, Priority: metric}
	if subnet.IsValid() {
		r.Dst = rtnl.IPNet(subnet)
	}
	return r
}

func failed(what string, r netlink.Route, err error) error {
	if err != nil {
		return fmt.Errorf("%s blackhole route to %v: %w", what, r.Dst, err)
	}
	return nil
}
