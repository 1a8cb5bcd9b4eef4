// SPDX-License-Identifier: Apache-2.0

// Package blackhole has the kernel drop what is for an address of this node's
// subnets that nothing on the node has, as flanneld's --ip-blackhole-route does
// (AddBlackholeV4Route and V6Route in its pkg/ip/iface.go). Without it such a packet follows
// the default route, and may come back by it.
//
// The route stands behind any other of the subnet, by its metric: flanneld's
// has none, and so cannot be added where a bridge has the subnet.
package blackhole

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// RouteProtocol marks the route ("ip route show proto 97"), apart from the
// dataplane's, which are all those of peers.
const RouteProtocol = 0x61

// metric is above those that people and DHCP clients give.
const metric = 1 << 16

// Ensure has the blackhole routes of ours be those of the subnets, of either
// family, and reports whether they were not.
func Ensure(subnets ...netip.Prefix) (changed bool, err error) {
	h, err := rtnl.Open()
	if err != nil {
		return false, err
	}
	defer h.Close()
	c, err := rtnl.Dial()
	if err != nil {
		return false, err
	}
	defer c.Close()
	there := map[netip.Prefix]bool{}
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := c.Routes(family, func(r rtnl.Route) bool { return r.Protocol == RouteProtocol })
		if err != nil {
			return changed, err
		}
		for _, r := range all {
			if r.Type == unix.RTN_BLACKHOLE && r.Metric == metric && slices.Contains(subnets, r.Dst) {
				there[r.Dst] = true
				continue
			}
			changed = true
			other := route(r.Dst)
			other.Type, other.Priority = int(r.Type), r.Metric
			errs = append(errs, failed("delete", other, h.RouteDel(&other)))
		}
	}
	for _, subnet := range subnets {
		if !there[subnet] {
			changed = true
			want := route(subnet)
			errs = append(errs, failed("add", want, h.RouteAdd(&want)))
		}
	}
	return changed, errors.Join(errs...)
}

// Cleanup removes the routes. None there is no error.
func Cleanup() error {
	_, err := Ensure()
	return err
}

func route(subnet netip.Prefix) netlink.Route {
	return netlink.Route{Type: unix.RTN_BLACKHOLE, Protocol: RouteProtocol, Priority: metric, Dst: rtnl.IPNet(subnet)}
}

func failed(what string, r netlink.Route, err error) error {
	if err != nil {
		return fmt.Errorf("%s blackhole route to %v: %w", what, r.Dst, err)
	}
	return nil
}
