// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// linkEndpoints is how many addresses behind one link become endpoints. An IPv6
// subnet has more than any table could hold, and nobody keeps a container from
// using another for each packet; what is beyond takes the kernel's path.
const linkEndpoints = 256

// machine turns the kernel's tables into State. It does no I/O.
type machine struct {
	*tables
	ignore    []string
	endpoints map[netip.Addr]place // outlive the entries they were learned from
	behind    map[int]int          // port -> how many of them
	ask       map[netip.Addr]int   // addresses that the kernel is to ask for, and on which device
	spared    map[netip.Addr]int   // how often endpoints were not asked for: see spare
}

// place is where an address was found.
type place struct {
	dev     int // where the kernel sends it: the bridge, or the routed veth
	port    int // the container link: a port of the bridge, or the routed veth
	mac     topology.MAC
	gateway topology.MAC // dev's, as the container has last been told
}

func newMachine(subnet netip.Prefix, ignore []string) *machine {
	subnet = subnet.Masked()
	return &machine{
		tables: newTables(subnet), ignore: ignore,
		endpoints: make(map[netip.Addr]place), behind: make(map[int]int), ask: make(map[netip.Addr]int), spared: make(map[netip.Addr]int),
	}
}

func newMachines(subnets []netip.Prefix, ignore []string) (all []*machine) {
	for _, s := range subnets {
		all = append(all, newMachine(s, ignore))
	}
	return all
}

// reset takes over a fresh listing. What it lacks has been forgotten by the
// kernel, which does not move an endpoint.
func (m *machine) reset(t *tables) {
	m.tables = t
	m.settleAll()
}

func (m *machine) resetRoutes(t *tables) {
	m.routes, m.doubt = t.routes, false
	m.settleAll()
}

// adopt takes endpoints learned earlier, as far as nothing speaks against them.
func (m *machine) adopt(known []Endpoint) {
	for _, e := range known {
		if _, ok := m.endpoints[e.Addr]; ok || !m.subnet.Contains(e.Addr) {
			continue
		}
		p := place{dev: e.Ifindex, port: e.Ifindex, mac: e.MAC, gateway: e.Gateway}
		if _, routed := m.routes[e.Addr]; !routed {
			p.dev = m.links[e.Ifindex].master
		}
		m.put(e.Addr, p)
		m.settle(e.Addr)
	}
}

// apply takes over one change and settles the addresses it concerns.
func (m *machine) apply(e event) {
	readdressed := m.readdressed(e)
	if !m.tables.apply(e) {
		return
	}
	switch r := e.record.(type) {
	case hostRoute:
		m.settle(r.addr)
	case neighbour:
		m.settle(r.addr)
	case fdbEntry:
		m.settleMAC(r.mac)
	default:
		m.settleAll()
	}
	if readdressed != 0 {
		m.askAll(readdressed)
	}
}

// settle decides where an address is. One that has just ceased to answer is asked for again, and one is asked for
// that is to be told its gateway's new MAC.
func (m *machine) settle(addr netip.Addr) {
	if p, ok := m.resolve(addr); ok {
		m.put(addr, p)
		if m.endpoints[addr] == p && m.untold(p) && m.hears(p) {
			m.ask[addr] = p.dev
		}
		return
	}
	if before, known := m.endpoints[addr]; known && m.neighs[addr][before.dev].failed {
		m.ask[addr] = before.dev
	}
	m.drop(addr)
}

// put notes where an address is, unless its link has too many.
func (m *machine) put(addr netip.Addr, p place) {
	before, known := m.endpoints[addr]
	if !known || before.port != p.port {
		if m.behind[p.port] == linkEndpoints {
			m.drop(addr)
			return
		}
		m.leave(before.port)
		m.behind[p.port]++
	}
	m.endpoints[addr] = p
}

func (m *machine) drop(addr netip.Addr) {
	m.leave(m.endpoints[addr].port)
	delete(m.endpoints, addr)
	delete(m.spared, addr)
}

// leave counts one address less behind a link; 0 is none.
func (m *machine) leave(port int) {
	if m.behind[port]--; m.behind[port] <= 0 {
		delete(m.behind, port)
	}
}

func (m *machine) settleMAC(mac topology.MAC) {
	for addr, devs := range m.neighs {
		for _, n := range devs {
			if n.mac == mac {
				m.settle(addr)
			}
		}
	}
	for addr, p := range m.endpoints {
		if p.mac == mac {
			m.settle(addr)
		}
	}
}

func (m *machine) settleAll() {
	for addr := range m.neighs {
		m.settle(addr)
	}
	for addr := range m.endpoints {
		m.settle(addr)
	}
}

// resolve finds the container that has addr. Where the kernel's tables are
// silent, what was learned before still holds.
func (m *machine) resolve(addr netip.Addr) (place, bool) {
	before := m.endpoints[addr]
	dev, routed := m.device(addr)
	p := place{dev: dev, port: dev}

	n, ok := m.neighs[addr][dev]
	switch {
	case ok:
		p.mac = n.mac
	case before.dev == dev:
		p.mac = before.mac
	}
	if !routed {
		p.port, ok = m.fdb[fdbKey{dev, p.mac}]
		if !ok && before.dev == dev && before.mac == p.mac {
			p.port = before.port
		}
	}
	if p.gateway = before.gateway; before.dev != dev || m.told(addr, dev) {
		p.gateway = m.links[dev].mac
	}
	return p, m.serves(p) && !m.own(addr)
}

// device tells where the kernel sends packets to addr, and whether by a host
// route. It is 0 where that is no place for a container.
func (m *machine) device(addr netip.Addr) (dev int, routed bool) {
	if routes := m.routes[addr]; len(routes) > 0 {
		if routes[0].onLink {
			return routes[0].ifindex, true
		}
		return 0, true
	}
	var newest uint64
	for d, n := range m.neighs[addr] {
		if !n.failed && n.age > newest && m.isNodeBridge(d) {
			dev, newest = d, n.age
		}
	}
	if before := m.endpoints[addr].dev; dev == 0 && m.isNodeBridge(before) {
		dev = before
	}
	return dev, false
}

// serves reports whether a frame for p.mac can be handed to p.port: the links
// are in service and still belong together, and the MAC is a container's.
func (m *machine) serves(p place) bool {
	dev, port := m.links[p.dev], m.links[p.port]
	return dev.up && port.up && port.carrier &&
		m.isVeth(port) && (p.dev == p.port || port.master == p.dev) &&
		p.mac != (topology.MAC{}) && p.mac[0]&1 == 0 && p.mac != dev.mac
}

// own reports whether addr is this host's.
func (m *machine) own(addr netip.Addr) bool {
	return m.hasAddr(func(a localAddr) bool { return a.addr == addr })
}

// isNodeBridge reports whether the device is a bridge with an address inside
// the node's subnet.
func (m *machine) isNodeBridge(ifindex int) bool {
	l := m.links[ifindex]
	return l.kind == "bridge" && !slices.Contains(m.ignore, l.name) && m.hasAddr(func(a localAddr) bool {
		return a.ifindex == ifindex && m.subnet.Contains(a.addr)
	})
}

// isVeth reports whether the device can be the host end of a container's veth.
// A pair with both ends in this namespace joins two devices of the host, and
// bpf_redirect_peer refuses it (skb_do_redirect in net/core/filter.c).
func (m *machine) isVeth(l link) bool {
	return l.kind == "veth" && l.away && !slices.Contains(m.ignore, l.name)
}

// stateOf is a copy of what all machines know now.
func stateOf(machines ...*machine) (all State) {
	for _, m := range machines {
		s := m.found()
		all.Links = append(all.Links, s.Links...)
		all.Endpoints = append(all.Endpoints, s.Endpoints...)
	}
	slices.SortFunc(all.Links, func(a, b Link) int { return cmp.Compare(a.Ifindex, b.Ifindex) })
	all.Links = slices.Compact(all.Links) // a link of a bridge of both families
	slices.SortFunc(all.Endpoints, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	return all
}

// found is what one machine knows now, in no order.
func (m *machine) found() State {
	routed := make(map[int]bool)
	for _, routes := range m.routes {
		for _, r := range routes {
			routed[r.ifindex] = routed[r.ifindex] || r.onLink
		}
	}
	var s State
	for _, l := range m.links {
		if m.isVeth(l) && (routed[l.ifindex] || m.isNodeBridge(l.master)) {
			s.Links = append(s.Links, Link{Ifindex: l.ifindex, Name: l.name})
		}
	}
	for addr, p := range m.endpoints {
		s.Endpoints = append(s.Endpoints,
			Endpoint{Addr: addr, Ifindex: p.port, MAC: p.mac, Gateway: p.gateway})
	}
	return s
}
