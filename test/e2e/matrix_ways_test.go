// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net/netip"

	"github.com/bpfnet/bpfnet/test/lab"
)

// spot is where a socket is.
type spot struct {
	ns   lab.Namespace
	addr netip.Addr
}

// way is a way from one spot to another, and back.
type way struct {
	name        string
	ends        func(m *matrix, f lab.Families) (from, to spot)
	wire        int // hops before the wire between the hosts; -1 where it does not get there
	hops        int // in all
	there, back direction
}

// direction is what becomes of a packet.
type direction struct {
	first, last place   // where it is seen first, and last
	tunnel      []stage // what counts it, where there is encapsulation
	direct      []stage // and where there is none
}

// stage is a counter of a host, and where the packets are seen that it counts.
type stage struct {
	host    int // 0 is h1
	counter string
	at      place
}

// place is an interface, and which of its packets are meant.
type place func(m *matrix, f lab.Families) point

// sent are those that leave by a host's uplink, arrived those that come in.
func sent(host int) place {
	return func(m *matrix, _ lab.Families) point { return point{m.Hosts[host].NS, lab.Uplink, true} }
}

func arrived(host int) place {
	return func(m *matrix, _ lab.Families) point { return point{m.Hosts[host].NS, lab.Uplink, false} }
}

// overlay are those that come in by a host's overlay device; in host-gw networks by the uplink.
func overlay(host int) place {
	return func(m *matrix, f lab.Families) point {
		if device := m.device(host, f); device != "" {
			return point{m.Hosts[host].NS, device, false}
		}
		return arrived(host)(m, f)
	}
}

// kernels are those that the kernel's own overlay device of a host sends.
func kernels(host int) place {
	return func(m *matrix, f lab.Families) point { return point{m.Hosts[host].NS, m.device(host, f), true} }
}

// crossed are those that come out of a host's bpfnet0 at its other end.
func crossed(host int) place {
	return func(m *matrix, _ lab.Families) point { return point{m.Hosts[host].NS, "bpfnet0p", false} }
}

// veth are those that come from a container, eth0 those that reach it.
func veth(host, container int) place {
	return func(m *matrix, _ lab.Families) point {
		return point{m.Hosts[host].NS, m.Hosts[host].Containers[container].Veth, false}
	}
}

func eth0(host, container int) place {
	return func(m *matrix, _ lab.Families) point {
		return point{m.Hosts[host].Containers[container].NS, "eth0", false}
	}
}

// nestedEth0 is the nested container's.
func nestedEth0(outgoing bool) place {
	return func(m *matrix, _ lab.Families) point { return point{m.behind.NS, "eth0", outgoing} }
}

func container(host, container int) func(*matrix, lab.Families) spot {
	return func(m *matrix, f lab.Families) spot {
		c := m.Hosts[host].Containers[container]
		return spot{c.NS, c.In(f)}
	}
}

func bridge(host int) func(*matrix, lab.Families) spot {
	return func(m *matrix, f lab.Families) spot { return spot{m.Hosts[host].NS, m.Hosts[host].GatewayOf(f)} }
}

// hostItself has whatever address its kernel chooses.
func hostItself(host int) func(*matrix, lab.Families) spot {
	return func(m *matrix, _ lab.Families) spot { return spot{ns: m.Hosts[host].NS} }
}

func nested(m *matrix, f lab.Families) spot { return spot{m.behind.NS, m.behind.In(f)} }

func between(from, to func(*matrix, lab.Families) spot) func(*matrix, lab.Families) (spot, spot) {
	return func(m *matrix, f lab.Families) (spot, spot) { return from(m, f), to(m, f) }
}

// remotely is from a container of one host to one of the other, by its veth.
func remotely(from, to int, first, by, last place) direction {
	return direction{first, last,
		[]stage{{from, containerEncapsulated, by}, {to, networkDelivered, arrived(to)}},
		[]stage{{from, containerRouted, by}, {to, networkDelivered, arrived(to)}}}
}

var ways = []way{
	{"container to container", between(container(0, 0), container(1, 0)), 1, 2,
		remotely(0, 1, veth(0, 0), veth(0, 0), eth0(1, 0)), remotely(1, 0, veth(1, 0), veth(1, 0), eth0(0, 0))},
	{"container to bridge", between(container(0, 0), bridge(1)), 1, 1,
		direction{veth(0, 0), overlay(1),
			[]stage{{0, containerEncapsulated, veth(0, 0)}, {1, networkToHost, arrived(1)}},
			[]stage{{0, containerRouted, veth(0, 0)}, {1, networkNotOurs, arrived(1)}}},
		direction{sent(1), eth0(0, 0),
			[]stage{{1, hostEncapsulated, sent(1)}, {0, networkDelivered, arrived(0)}},
			[]stage{{0, networkDelivered, arrived(0)}}}},
	// Without encapsulation the node's address is its underlay's, which is none of the overlay.
	{"host to container", between(hostItself(0), container(1, 0)), 0, 1,
		direction{sent(0), eth0(1, 0),
			[]stage{{0, hostEncapsulated, sent(0)}, {1, networkDelivered, arrived(1)}},
			[]stage{{1, networkNotOurs, arrived(1)}}},
		direction{veth(1, 0), overlay(0),
			[]stage{{1, containerEncapsulated, veth(1, 0)}, {0, networkToHost, arrived(0)}},
			[]stage{{1, containerNoRoute, veth(1, 0)}, {0, networkNotOurs, arrived(0)}}}},
	{"container to container of its host", between(container(0, 0), container(0, 1)), -1, 0, locally(0, 1), locally(1, 0)},
	{"container to nested container", between(container(0, 0), nested), 1, 3,
		remotely(0, 1, veth(0, 0), veth(0, 0), nestedEth0(false)), remotely(1, 0, nestedEth0(true), veth(1, 1), eth0(0, 0))},
	{"nested container to container", between(nested, container(0, 0)), 2, 3,
		remotely(1, 0, nestedEth0(true), veth(1, 1), eth0(0, 0)), remotely(0, 1, veth(0, 0), veth(0, 0), nestedEth0(false))},
}

// locally is between two containers of h1.
func locally(from, to int) direction {
	stages := []stage{{0, containerLocal, veth(0, from)}}
	return direction{veth(0, from), eth0(0, to), stages, stages}
}
