// SPDX-License-Identifier: Apache-2.0

package containers

import "net/netip"

// told reports whether a container knows the MAC that the device has now. With another MAC the kernel forgets
// the device's neighbours; each that it has found since had the new one from the kernel's request (see hears), or
// has asked for it. Those set by hand count too. The others send to the old one, and are served.
func (m *machine) told(addr netip.Addr, dev int) bool {
	n, ok := m.neighs[addr][dev]
	return ok && !n.failed
}

// untold reports whether an endpoint sends to a MAC that its gateway has no more.
func (m *machine) untold(p place) bool { return p.gateway != m.links[p.dev].mac }

// hears reports whether the kernel's request for an endpoint tells it its gateway's MAC. In IPv6 it tells that of a
// link-local address (ndisc_solicit in net/ipv6/ndisc.c), and on a routed veth that of an address of the node; a container has its gateway by
// another, mostly.
func (m *machine) hears(p place) bool { return m.subnet.Addr().Is4() && p.dev != p.port }

// sparings is how often an endpoint is spared: longer than a container takes to miss its gateway and ask for it itself
// (45 s REACHABLE_TIME at most, 5 s DELAY_FIRST_PROBE_TIME, three probes of a second: RFC 4861, 10).
const sparings = 2

// spare reports whether an endpoint is not to be asked for now: its answer would be taken for knowing
// its gateway's new MAC.
func (m *machine) spare(addr netip.Addr, p place) bool {
	if !m.untold(p) || m.hears(p) {
		delete(m.spared, addr)
		return false
	}
	m.spared[addr]++
	return m.spared[addr] <= sparings
}

// askAll has the containers told that a device has another MAC; also one that it had before, for they may have been told
// of that in between.
func (m *machine) askAll(dev int) {
	for addr, p := range m.endpoints {
		if p.dev == dev && m.hears(p) {
			m.ask[addr] = dev
		}
	}
}
