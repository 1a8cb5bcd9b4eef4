// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// cover is the way to many peers while they have no routes of their own yet: a
// few routes, to just the addresses that their subnets are made of, by one
// gateway. The programs at the overlay device go by the packet's destination
// alone. What they leave to the kernel's device goes nowhere, for it knows no node by
// the gateway's MAC.
type cover struct {
	gateway netip.Addr
	routes  []route
}

// coverMetric is higher than that of any route of ours, so that a peer's own to
// the same subnet goes before.
const coverMetric = 1 << 16

// The gateways, which nobody has: link-local addresses (RFC 3927, RFC 4291 section 2.5.6).
var (
	coverGateway4 = netip.MustParseAddr("169.254.1.1")
	coverGateway6 = netip.MustParseAddr("fe80::1")
)

func (w *work) coverOf(peers []*topology.Peer) *cover {
	c := &cover{gateway: coverGateway4}
	if w.self.Subnet.Addr().Is6() {
		c.gateway = coverGateway6
	}
	var subnets []netip.Prefix
	for _, p := range peers {
		subnets = append(subnets, p.Subnet)
	}
	if w.self.Encap == topology.EncapVXLAN {
		w.want.neighbours[c.gateway] = w.dev.MAC
	}
	for _, p := range merge(subnets) {
		r := route{p, c.gateway, w.dev.Ifindex, coverMetric, RouteProtocol}
		w.want.routes[r] = attrs{}
		c.routes = append(c.routes, r)
	}
	return c
}

// merge is the fewest prefixes that have just the addresses of some that do not
// overlap, which are sorted by it.
func merge(subnets []netip.Prefix) (merged []netip.Prefix) {
	slices.SortFunc(subnets, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	for _, p := range subnets {
		for n := len(merged); n > 0; n = len(merged) {
			both := netip.PrefixFrom(merged[n-1].Addr(), p.Bits()-1)
			if merged[n-1].Bits() != p.Bits() || both != both.Masked() || !both.Contains(p.Addr()) {
				break
			}
			merged, p = merged[:n-1], both
		}
		merged = append(merged, p)
	}
	return merged
}

// uncover has the cover go with what else is not wanted.
func (w *work) uncover() {
	if w.cover == nil {
		return
	}
	delete(w.want.neighbours, w.cover.gateway)
	for _, r := range w.cover.routes {
		delete(w.want.routes, r)
	}
	w.cover = nil
}
