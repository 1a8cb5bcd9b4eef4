// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// tables mirror the kernel's, as far as they concern the containers of subnet.
//
// Routes are kept by imitation, for the kernel flushes them without telling. What
// is not plain is not imitated: then they are in doubt, to be listed again.
type tables struct {
	subnet  netip.Prefix
	doubt   bool   // routes may be others than the kernel's
	learned uint64 // counts what neighs learned, to tell the newest
	links   map[int]link
	addrs   map[localAddr]bool
	routes  map[netip.Addr][]hostRoute // in the kernel's order, first match first
	neighs  map[netip.Addr]map[int]neigh
	fdb     map[fdbKey]int // port
}

// neigh is what a device's neighbour table says of an address.
type neigh struct {
	mac    topology.MAC
	failed bool // nobody answers there
	fixed  bool // set by hand: the kernel never asks
	age    uint64
}

type fdbKey struct {
	bridge int
	mac    topology.MAC
}

func newTables(subnet netip.Prefix) *tables {
	return &tables{
		subnet: subnet,
		links:  make(map[int]link),
		addrs:  make(map[localAddr]bool),
		routes: make(map[netip.Addr][]hostRoute),
		neighs: make(map[netip.Addr]map[int]neigh),
		fdb:    make(map[fdbKey]int),
	}
}

// apply takes over one change and reports whether it was one.
func (t *tables) apply(e event) bool {
	// With a device's MAC go its neighbours, which the kernel tells only after (neigh_changeaddr in net/core/neighbour.c):
	// one that was found in between would be taken for one of those.
	if dev := t.readdressed(e); dev != 0 {
		t.dropNeighs(dev)
	}
	switch r := e.record.(type) {
	case link:
		return t.applyLink(r, e.gone)
	case localAddr:
		return r.addr.Is4() == t.subnet.Addr().Is4() && t.applyAddr(r, e.gone)
	case hostRoute:
		return t.applyRoute(r, e.gone)
	case nextHop:
		return t.applyNextHop()
	case neighbour:
		return t.applyNeighbour(r, e.gone)
	case fdbEntry:
		return t.applyFDB(r, e.gone)
	}
	return false
}

// readdressed is the device that an event gives another MAC; 0: none.
func (t *tables) readdressed(e event) (dev int) {
	l, ok := e.record.(link)
	before, had := t.links[l.ifindex]
	if !ok || e.gone || !had || before.mac == l.mac {
		return 0
	}
	return l.ifindex
}

func (t *tables) applyLink(l link, gone bool) bool {
	if gone {
		t.forgetLink(l.ifindex)
		return true
	}
	old, had := t.links[l.ifindex]
	t.links[l.ifindex] = l
	// The kernel flushes IPv4 routes of a device set down without telling, but for those of scope host
	// (fib_disable_ip in net/ipv4/fib_frontend.c, fib_sync_down_dev in fib_semantics.c). IPv6's it
	// tells of, unless net.ipv6.route.skip_notify_on_dev_down is set.
	// By next hop objects it flushes them, and these, where the carrier is lost too (nh_netdev_event in nexthop.c).
	t.doubt = t.doubt || !l.carrier && t.hasRoute(func(r hostRoute) bool {
		return r.object && (r.ifindex == l.ifindex || r.several.has(l.ifindex))
	})
	flushed := !l.up && t.flush(l.ifindex, func(r hostRoute) bool { return !r.lasting })
	// All of them go where it comes under a VRF or leaves one (fib_netdev_event).
	t.doubt = t.doubt || had && old.master != l.master && t.hasRoute(func(r hostRoute) bool { return r.ifindex == l.ifindex })
	return flushed || !had || old != l
}

// forgetLink drops all that cannot outlive the device.
func (t *tables) forgetLink(ifindex int) {
	delete(t.links, ifindex)
	for a := range t.addrs {
		if a.ifindex == ifindex {
			delete(t.addrs, a)
		}
	}
	t.flush(ifindex, all)
	t.dropNeighs(ifindex)
	for key, port := range t.fdb {
		if key.bridge == ifindex || port == ifindex {
			delete(t.fdb, key)
		}
	}
}

func (t *tables) applyAddr(a localAddr, gone bool) bool {
	had := t.addrs[a]
	if !gone {
		t.addrs[a] = true
		return !had
	}
	delete(t.addrs, a)
	// The IPv4 routes that have the address as their source may go with it, before Linux 6.7 untold, or stay: because
	// another device has it, or with a device that is deleted and had it as a secondary one (fib_del_ifaddr).
	t.doubt = t.doubt || t.hasRoute(func(r hostRoute) bool { return r.source == a.addr })
	// With a device's last one go, untold, all of that device (fib_inetaddr_event).
	last := a.addr.Is4() && !t.hasAddr(func(other localAddr) bool { return other.ifindex == a.ifindex })
	flushed := last && t.flush(a.ifindex, all)
	return flushed || had
}

func (t *tables) hasAddr(match func(localAddr) bool) bool {
	for a := range t.addrs {
		if match(a) {
			return true
		}
	}
	return false
}

// applyRoute takes over that a route comes or goes which is alone of its metric. Where several are, the kernel's
// order is its own, and a new one may be another that replaced one of them (fib_table_insert in net/ipv4/fib_trie.c,
// fib6_add_rt2node in net/ipv6/ip6_fib.c). A listing has them in that order.
func (t *tables) applyRoute(r hostRoute, gone bool) bool {
	if !t.subnet.Contains(r.addr) {
		return false
	}
	routes := t.routes[r.addr]
	first, end := withMetric(routes, r.metric)
	switch equal := routes[first:end]; {
	case gone && len(equal) == 0:
		return false
	case gone && len(equal) == 1 && equal[0] == r:
		t.setRoutes(r.addr, slices.Delete(routes, first, end))
	case gone:
		t.doubt = true
	default:
		t.doubt = t.doubt || len(equal) > 0
		t.setRoutes(r.addr, slices.Insert(routes, end, r))
	}
	return true
}

// applyNextHop takes over that a next hop object changed: with one that is deleted the kernel flushes IPv4 routes
// without telling (__remove_nexthop_fib in net/ipv4/nexthop.c).
func (t *tables) applyNextHop() bool {
	t.doubt = t.doubt || t.hasRoute(func(r hostRoute) bool { return r.object })
	return false
}

// withMetric is where the routes of a metric stand, or would.
func withMetric(routes []hostRoute, metric uint32) (first, end int) {
	for _, r := range routes {
		if r.metric < metric {
			first++
		}
		if r.metric <= metric {
			end++
		}
	}
	return first, end
}

func (t *tables) setRoutes(addr netip.Addr, routes []hostRoute) {
	if len(routes) == 0 {
		delete(t.routes, addr)
		return
	}
	t.routes[addr] = routes
}

func (t *tables) hasRoute(match func(hostRoute) bool) bool {
	for _, routes := range t.routes {
		if slices.ContainsFunc(routes, match) {
			return true
		}
	}
	return false
}

// flush drops the routes of a device that match. One of several next hops goes with the last
// of their devices.
func (t *tables) flush(ifindex int, match func(hostRoute) bool) (flushed bool) {
	t.doubt = t.doubt || t.hasRoute(func(r hostRoute) bool { return r.several.has(ifindex) })
	for addr, routes := range t.routes {
		left := slices.DeleteFunc(routes, func(r hostRoute) bool { return r.ifindex == ifindex && match(r) })
		flushed = flushed || len(left) < len(routes)
		t.setRoutes(addr, left)
	}
	return flushed
}

func all(hostRoute) bool { return true }

func (t *tables) applyNeighbour(n neighbour, gone bool) bool {
	if !t.subnet.Contains(n.addr) {
		return false
	}
	old, had := t.neighs[n.addr][n.ifindex]
	failed := n.state&unix.NUD_FAILED != 0
	if gone || n.mac == (topology.MAC{}) && !failed {
		t.dropNeigh(n.addr, n.ifindex)
		return had
	}
	fixed := n.state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0
	if had && old.mac == n.mac && old.failed == failed && old.fixed == fixed {
		return false
	}
	if t.neighs[n.addr] == nil {
		t.neighs[n.addr] = make(map[int]neigh)
	}
	t.learned++
	t.neighs[n.addr][n.ifindex] = neigh{mac: n.mac, failed: failed, fixed: fixed, age: t.learned}
	return true
}

func (t *tables) dropNeighs(ifindex int) {
	for addr := range t.neighs {
		t.dropNeigh(addr, ifindex)
	}
}

func (t *tables) dropNeigh(addr netip.Addr, ifindex int) {
	delete(t.neighs[addr], ifindex)
	if len(t.neighs[addr]) == 0 {
		delete(t.neighs, addr)
	}
}

func (t *tables) applyFDB(e fdbEntry, gone bool) bool {
	key := fdbKey{e.bridge, e.mac}
	port, had := t.fdb[key]
	if gone {
		if had && port == e.port { // else it is another VLAN's
			delete(t.fdb, key)
		}
		return had && port == e.port
	}
	t.fdb[key] = e.port
	return !had || port != e.port
}
