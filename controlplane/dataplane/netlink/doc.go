// SPDX-License-Identifier: Apache-2.0

// Package netlink makes the kernel's own view of the network equal to the
// desired state: the overlay device, and a route, a permanent neighbour and an
// FDB entry for each peer, the way flannel sets them up. In netlink mode this is
// the dataplane; in ebpf mode it is what the programs fall back to and what
// "ip route", "ip neigh" and "bridge fdb" show.
//
// # What is ours
//
//   - The overlay device, with its /32 or /128 address.
//   - Permanent neighbours and permanent unicast FDB entries on it.
//   - Routes of the main table that carry [RouteProtocol], those that lead by a
//     gateway into the overlay device, and those without a protocol of their own
//     (boot) to a peer's subnet by that peer's node, which flanneld sets.
//
// Anything else is somebody else's and is neither changed nor removed.
//
// # The overlay device
//
//	            ebpf                 netlink
//	vxlan       bpfnet0, vxlan       bpfnet0, vxlan
//	ipip        bpfnet0, veth        bpfnet-ipip, ipip; with IPv6: ipip.go
//	udp         bpfnet0, veth        bpfnet-tun, TUN (package udptun makes it)
//	host-gw     none                 none
//
// That is for an IPv4 network. An IPv6 one has a vxlan device of its own,
// bpfnet0-v6, and in ipip shares the programs' veth; udp it has not.
//
// A vxlan or ipip device that flanneld has left is taken over by renaming it, so
// that migrating from flanneld loses no packet.
//
// # How it is written
//
// The kernel's tables are listed once and compared; only what differs is
// written. Per peer the order is FDB, neighbour, route, so that no route ever
// points to an address that cannot be resolved; what is stale is removed in the
// reverse order after everything wanted stands. Entries whose key stays (a
// peer's new MAC, a VTEP's new node) are replaced in place, and a new route is
// there, in front where it has the old one's metric, before that is deleted: no packet finds a gap.
//
// The tables are listed only when they may be other than they were written: see
// [View]. In a cluster of more than a thousand, routes of IPv4 have many metrics: what
// the kernel does for a route would else grow with the number of peers (spread.go).
//
// 100,000 peers take seconds to write, so it can be done in steps ([View.Advance]):
// who has changed comes first, and the rest is served by a few routes to all of it
// meanwhile, where our programs are at the overlay device (cover.go).
//
// Permanent neighbours do not count against net.ipv4.neigh.default.gc_thresh3
// since Linux 5.0 (commit 58956317c8de, net/core/neighbour.c), so the number of
// peers has no limit there.
//
// # Two families
//
// A dual-stack node has two networks, one a family, each with a [topology.State];
// [EnsureOverlay] is called for each, and each has a [View]; they look at nothing of the
// other's. IPv6's routing differs in two things (family.go): its routes have a
// metric of their own, and a gateway that is not on the device has to be argued for.
//
// All functions work in the network namespace of the calling thread.
package netlink
