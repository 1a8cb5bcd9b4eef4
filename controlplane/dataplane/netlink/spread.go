// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"encoding/binary"
	"net/netip"
)

// A route of IPv4 that names its gateway has a struct fib_info, shared among
// routes that are alike. The kernel looks for one in a hash that knows device and
// metric, but not the gateway (fib_find_info, fib_info_hashfn_1 of
// net/ipv4/fib_semantics.c): those of all our peers would lie in one chain, and
// 100,000 take it minutes, with the lock held that all of the network's
// configuration needs. So the routes of a large cluster differ in their metrics,
// and lie in as many chains. Nexthop objects ("ip nexthop") are found by their
// ids, but when their device goes the kernel walks its table once for each
// (nexthop_flush_dev), and flanneld does not know them.

const (
	// plainRoutes is how many peers have routes with flanneld's metric, none:
	// so many in one chain take the kernel some milliseconds.
	plainRoutes = 1000
	metrics     = 4096 // of larger clusters' routes, from 1 on
)

// spread is the metric of a route to dst in a large cluster: those of neighbouring
// subnets follow each other.
func spread(dst netip.Prefix) int {
	a := dst.Addr().As4()
	return 1 + int(binary.BigEndian.Uint32(a[:])>>(32-dst.Bits()))%metrics
}
