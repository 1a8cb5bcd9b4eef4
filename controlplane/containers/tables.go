// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// tables mirror the kernel's, as far as they concern the containers of subnet.
type tables struct {
	subnet  netip.Prefix
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
	switch r := e.record.(type) {
	case link:
		return t.applyLink(r, e.gone)
	case localAddr:
		return r.addr.Is4() == t.subnet.Addr().Is4() && t.applyAddr(r, e.gone)
	case hostRoute:
		return t.applyRoute(r, e.gone, e.replace)
	case neighbour:
		return t.applyNeighbour(r, e.gone)
	case fdbEntry:
		return t.applyFDB(r, e.gone)
	}
	return false
}

func (t *tables) applyLink(l link, gone bool) bool {
	if gone {
		t.forgetLink(l.ifindex)
		return true
	}
	old, had := t.links[l.ifindex]
	t.links[l.ifindex] = l
	// The kernel flushes IPv4 routes of a device set down without telling
	// (fib_disable_ip in net/ipv4/fib_frontend.c). IPv6's it tells of, unless
	// net.ipv6.route.skip_notify_on_dev_down is set.
	flushed := !l.up && t.dropRoutes(func(r hostRoute) bool { return r.ifindex == l.ifindex })
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
	t.dropRoutes(func(r hostRoute) bool { return r.ifindex == ifindex })
	for addr := range t.neighs {
		t.dropNeigh(addr, ifindex)
	}
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
	// With an address that no other device has go, untold, the IPv4 routes that have it as
	// their source, and with a device's last one all of that device (fib_inetaddr_event, fib_del_ifaddr).
	last := a.addr.Is4() && !t.hasAddr(func(other localAddr) bool {
		return other.ifindex == a.ifindex && other.addr.Is4()
	})
	local := t.hasAddr(func(other localAddr) bool { return other.addr == a.addr })
	flushed := t.dropRoutes(func(r hostRoute) bool {
		return r.source == a.addr && !local || last && r.ifindex == a.ifindex
	})
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

func (t *tables) applyRoute(r hostRoute, gone, replace bool) bool {
	if !t.subnet.Contains(r.addr) {
		return false
	}
	routes := t.routes[r.addr]
	i := slices.Index(routes, r)
	switch known := i >= 0; {
	case gone != known:
		return false
	case gone:
		t.setRoutes(r.addr, slices.Delete(routes, i, i+1))
	default:
		t.setRoutes(r.addr, insertRoute(routes, r, replace))
	}
	return true
}

// insertRoute puts r behind the routes that have its metric or a lower one, or
// in the place of one that has the same.
func insertRoute(routes []hostRoute, r hostRoute, replace bool) []hostRoute {
	if equal := replaced(routes, r); replace && equal >= 0 {
		routes[equal] = r
		return routes
	}
	i := slices.IndexFunc(routes, func(o hostRoute) bool { return o.metric > r.metric })
	if i < 0 {
		i = len(routes)
	}
	return slices.Insert(routes, i, r)
}

// replaced is the route in whose place r comes: the first of its metric, in IPv6 the first that has a
// gateway as r does, or has none as r does, where there is one (fib6_add_rt2node in net/ipv6/ip6_fib.c).
func replaced(routes []hostRoute, r hostRoute) int {
	like := slices.IndexFunc(routes, func(o hostRoute) bool { return o.metric == r.metric && o.gateway == r.gateway })
	if r.addr.Is6() && like >= 0 {
		return like
	}
	return slices.IndexFunc(routes, func(o hostRoute) bool { return o.metric == r.metric })
}

func (t *tables) setRoutes(addr netip.Addr, routes []hostRoute) {
	if len(routes) == 0 {
		delete(t.routes, addr)
		return
	}
	t.routes[addr] = routes
}

func (t *tables) dropRoutes(match func(hostRoute) bool) (dropped bool) {
	for addr, routes := range t.routes {
		if slices.ContainsFunc(routes, match) {
			t.setRoutes(addr, slices.DeleteFunc(routes, match))
			dropped = true
		}
	}
	return dropped
}

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
