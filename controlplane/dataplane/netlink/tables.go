// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
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
	protocol netlink.RouteProtocol
}

func (r route) String() string { return fmt.Sprintf("%s via %s", r.dst, r.gateway) }

// netlink is the route with that MTU; 0 leaves it to the device, and in a removal matches any.
func (r route) netlink(mtu int) *netlink.Route {
	return &netlink.Route{
		Dst:       rtnl.IPNet(r.dst),
		Gw:        r.gateway.AsSlice(),
		LinkIndex: r.ifindex,
		Priority:  r.metric,
		Protocol:  r.protocol,
		Table:     unix.RT_TABLE_MAIN,
		Flags:     int(netlink.FLAG_ONLINK),
		MTU:       mtu,
	}
}

// tables is what the kernel holds, or has to hold, for all peers.
type tables struct {
	fdb        map[topology.MAC]netip.Addr // VTEP MAC -> node
	neighbours map[netip.Addr]topology.MAC // VTEP address -> VTEP MAC
	routes     map[route]int               // -> MTU; 0 where it is the device's
	others     map[route]bool              // set by hand, or by flanneld; not ours unless they say the same as ours
	connected  map[netip.Prefix]int        // networks this node has an address in -> ifindex; not ours
}

func newTables() *tables {
	return &tables{
		fdb:        map[topology.MAC]netip.Addr{},
		neighbours: map[netip.Addr]topology.MAC{},
		routes:     map[route]int{},
		others:     map[route]bool{},
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
		if err := k.listNeighbours(f, overlay, t); err != nil {
			return nil, err
		}
	}
	return t, k.listRoutes(f, overlay, t)
}

func (k kernel) listFDB(overlay int, t *tables) error {
	entries, err := rtnl.List("FDB", func() ([]netlink.Neigh, error) { return k.NeighList(overlay, unix.AF_BRIDGE) })
	for _, e := range entries {
		mac, node := macOf(e.HardwareAddr), rtnl.Addr(e.IP) // a veth's entries have no node
		if e.State&netlink.NUD_PERMANENT != 0 && unicast(mac) && node.IsValid() {
			t.fdb[mac] = node
		}
	}
	return err
}

func (k kernel) listNeighbours(f family, overlay int, t *tables) error {
	entries, err := rtnl.List("neighbours", func() ([]netlink.Neigh, error) { return k.NeighList(overlay, f.number) })
	for _, e := range entries {
		if e.State&netlink.NUD_PERMANENT != 0 {
			t.neighbours[rtnl.Addr(e.IP)] = macOf(e.HardwareAddr)
		}
	}
	return err
}

// listRoutes takes what leads by a gateway into the overlay device as ours,
// whoever put it there: flanneld, whose device it was, or a person.
func (k kernel) listRoutes(f family, overlay int, t *tables) error {
	routes, err := rtnl.List("routes", func() ([]netlink.Route, error) { return k.RouteList(nil, f.number) })
	for _, r := range routes {
		key := route{rtnl.Prefix(r.Dst), rtnl.Addr(r.Gw), r.LinkIndex, r.Priority, r.Protocol}
		switch {
		case r.Protocol == RouteProtocol, byHand(key) && overlay != 0 && key.ifindex == overlay:
			t.routes[key] = r.MTU
		case byHand(key):
			t.others[key] = true
		case r.Protocol == unix.RTPROT_KERNEL:
			t.connected[key.dst] = key.ifindex
		}
	}
	return err
}

// byHand reports whether a route may be flanneld's, which does not mark its
// own (pkg/backend/route_network.go): iproute2 makes them look the same.
func byHand(r route) bool { return r.protocol == unix.RTPROT_BOOT && r.gateway.IsValid() }
