// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// RouteProtocol marks the routes that are ours ("ip route show proto 98"). It is
// the letter b; neither iproute2's rt_protos nor a routing daemon uses it.
const RouteProtocol = 0x62

// route is a route of ours. There may be two to one destination for the moment
// in which a peer moves, hence the gateway and the device are part of the key;
// and the protocol, for flanneld's come with the device that is taken over from it.
// The MTU is not: it is changed in place, for the kernel cannot be told to remove
// the one of two routes that has none (fib_metrics_match, net/ipv4/fib_semantics.c).
type route struct {
	dst      netip.Prefix
	gateway  netip.Addr
	ifindex  int
	metric   int
	protocol byte
}

func (r route) String() string { return fmt.Sprintf("%s via %s", r.dst, r.gateway) }

// attrs is what may differ between two routes that are the same to us.
type attrs struct {
	mtu  int // 0 where it is the device's
	ends ends
}

// tables is what the kernel holds, or has to hold, for all peers.
type tables struct {
	fdb        map[topology.MAC]netip.Addr // VTEP MAC -> node
	neighbours map[netip.Addr]topology.MAC // VTEP address -> VTEP MAC
	routes     map[route]attrs
	others     map[route]bool        // set by hand, or by flanneld; not ours unless they say the same as ours
	taken      map[netip.Prefix]bool // where routes that are not ours lead to
	connected  map[netip.Prefix]int  // networks this node has an address in -> ifindex; not ours
}

func newTables() *tables {
	return &tables{
		fdb:        map[topology.MAC]netip.Addr{},
		neighbours: map[netip.Addr]topology.MAC{},
		routes:     map[route]attrs{},
		others:     map[route]bool{},
		taken:      map[netip.Prefix]bool{},
		connected:  map[netip.Prefix]int{},
	}
}

// list reads our entries of a family, those on the overlay device by its
// ifindex; 0 stands for no such device.
func (k kernel) list(f family, overlay int) (*tables, error) {
	t := newTables()
	if overlay != 0 {
		if err := k.listFDB(overlay, t); err != nil {
			return nil, err
		}
		if err := k.listNeighbourTable(f, overlay, t); err != nil {
			return nil, err
		}
	}
	return t, k.listRoutes(f, overlay, t)
}

func (k kernel) listFDB(overlay int, t *tables) error {
	entries, err := k.listNeighbours("FDB", unix.AF_BRIDGE, overlay)
	for _, e := range entries {
		if unicast(e.mac) && e.addr.IsValid() { // a veth's entries have no node
			t.fdb[e.mac] = e.addr
		}
	}
	return err
}

func (k kernel) listNeighbourTable(f family, overlay int, t *tables) error {
	entries, err := k.listNeighbours("neighbours", f.number, overlay)
	for _, e := range entries {
		t.neighbours[e.addr] = e.mac
	}
	return err
}

// listRoutes takes what leads by a gateway into the overlay device as ours,
// whoever put it there: flanneld, whose device it was, or a person.
func (k kernel) listRoutes(f family, overlay int, t *tables) error {
	routes, err := k.conn.Routes(f.number, func(rtnl.Route) bool { return true })
	for _, told := range routes {
		r := route{told.Dst, told.Gateway, told.Ifindex, told.Metric, told.Protocol}
		if r.protocol == RouteProtocol || byHand(r) && overlay != 0 && r.ifindex == overlay {
			t.routes[r] = attrs{told.MTU, ends{told.TunnelSrc, told.TunnelDst}}
			continue
		}
		t.taken[r.dst] = true
		switch {
		case byHand(r):
			t.others[r] = true
		case r.protocol == unix.RTPROT_KERNEL:
			t.connected[r.dst] = r.ifindex
		}
	}
	return err
}

// byHand reports whether a route may be flanneld's, which does not mark its
// own (pkg/backend/route_network.go): iproute2 makes them look the same.
func byHand(r route) bool { return r.protocol == unix.RTPROT_BOOT && r.gateway.IsValid() }
