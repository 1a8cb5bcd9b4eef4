// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// PathTo asks the kernel for the way to a node: the interface, the next hop and
// the largest packet that fits, which is the MTU of the route (configured, or
// learnt by path MTU discovery) or of the interface, whichever is smaller. An
// address of this node, one that is not unicast and one that only the overlay
// itself leads to are errors. For many nodes at once use a [Resolver].
func PathTo(node netip.Addr) (topology.Path, error) {
	r, err := NewResolver()
	if err != nil {
		return topology.Path{}, err
	}
	defer r.Close()
	return r.PathTo(node)
}

// Resolver is PathTo for one pass over many nodes: it keeps its socket and what
// it learnt of the interfaces. Not for concurrent use.
type Resolver struct {
	h     *netlink.Handle
	conn  *rtnl.Conn
	links map[int]*netlink.LinkAttrs
}

// NewResolver opens a Resolver in the network namespace of the calling thread.
func NewResolver() (*Resolver, error) {
	h, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	c, err := rtnl.Dial()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &Resolver{h: h, conn: c, links: map[int]*netlink.LinkAttrs{}}, nil
}

// Close releases the sockets.
func (r *Resolver) Close() {
	r.conn.Close()
	r.h.Close()
}

// ethernet is netlink's name for links of type ARPHRD_ETHER (include/uapi/linux/if_arp.h).
const ethernet = "ether"

// PathTo is the package's PathTo.
func (r *Resolver) PathTo(node netip.Addr) (topology.Path, error) {
	route, err := lookUp(r.conn, node)
	if err != nil {
		return topology.Path{}, err
	}
	link, err := r.link(route.Ifindex)
	if err != nil {
		return topology.Path{}, err
	}
	if dataplane.IsOverlay(link.Name) {
		return topology.Path{}, fmt.Errorf("the route to %s leads into the overlay %s: a node's address must not lie in a container subnet",
			node, link.Name)
	}
	p := topology.Path{Ifindex: link.Index, Ethernet: link.EncapType == ethernet, NextHop: nextHop(route, node), MTU: link.MTU}
	if route.MTU > 0 {
		p.MTU = min(p.MTU, route.MTU)
	}
	return p, nil
}

func (r *Resolver) link(ifindex int) (*netlink.LinkAttrs, error) {
	if known, ok := r.links[ifindex]; ok {
		return known, nil
	}
	link, err := r.h.LinkByIndex(ifindex)
	if err != nil {
		return nil, fmt.Errorf("get link %d: %w", ifindex, err)
	}
	r.links[ifindex] = link.Attrs()
	return link.Attrs(), nil
}

// nextHop is the router on the way, or the node where it is on the link. A
// router of an IPv4 route may have an IPv6 address (RFC 5549, RTA_VIA).
func nextHop(r rtnl.Route, node netip.Addr) netip.Addr {
	if r.Gateway.IsValid() {
		return r.Gateway
	}
	return node
}

// lookUp returns the unicast route that the kernel would take.
func lookUp(c *rtnl.Conn, to netip.Addr) (rtnl.Route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = unix.AF_INET, byte(to.BitLen())
	if to.Is6() {
		header[0] = unix.AF_INET6
	}
	var r rtnl.Route
	err := c.Request(unix.RTM_GETROUTE, 0, header...).Attr(unix.RTA_DST, to.AsSlice()...).
		Get(func(msg []byte) { r, _ = rtnl.ParseRoute(msg) })
	if err != nil {
		return r, fmt.Errorf("look up route to %s: %w", to, err)
	}
	switch r.Type {
	case unix.RTN_UNICAST:
		return r, nil
	case unix.RTN_LOCAL:
		return r, fmt.Errorf("%s is an address of this node itself", to)
	}
	return r, fmt.Errorf("%s is not the address of a node: its route is of type %d", to, r.Type)
}
