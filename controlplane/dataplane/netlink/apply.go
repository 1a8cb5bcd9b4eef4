// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Apply makes the kernel's routes, neighbours and FDB serve the peers of s and
// removes what of ours serves none, whoever left it. What is right already is
// not written. The peers' subnets must not overlap. dev is what [EnsureOverlay]
// has returned.
//
// A peer that cannot be served is returned as a problem; the others are served.
// The error tells what concerns them all: a table that cannot be listed, a stale
// entry that cannot be removed.
func Apply(s topology.State, dev Device) ([]topology.Problem, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	f := familyOf(s.Self.Subnet.Addr())
	have, err := k.list(f, dev.Ifindex)
	if err != nil {
		return nil, err
	}
	w := writer{kernel: k, family: f, self: s.Self, dev: dev, have: have, want: newTables()}
	for _, p := range s.Peers {
		w.claim(p)
	}
	var problems []topology.Problem
	for _, p := range s.Peers {
		if err := w.serve(p); err != nil {
			problems = append(problems, topology.Problem{Key: p.Key, Text: err.Error()})
		}
	}
	return append(problems, w.strays(s.Network)...), w.prune()
}

// writer carries one Apply: what the kernel held when it began and what was
// wanted by the peers.
type writer struct {
	kernel
	family     family
	self       topology.Self
	dev        Device
	have, want *tables
}

// claim notes the entries that a peer needs. Of several nodes with one VTEP MAC,
// of which topology.Build tells, only one can have the FDB entry: the one that
// has it, else the first. The routes of all lead into the overlay, where the
// eBPF programs tell them apart by their subnets.
func (w *writer) claim(p topology.Peer) {
	mac := p.VTEP.MAC
	if p.Encap == topology.EncapVXLAN && !unicast(mac) {
		return
	}
	w.want.routes[w.route(p)] = w.mtu(p)
	w.takeOver(p)
	if p.Encap != topology.EncapVXLAN {
		return
	}
	w.want.neighbours[p.VTEP.Addr] = mac
	if _, taken := w.want.fdb[mac]; mac != w.dev.MAC && (!taken || w.have.fdb[mac] == p.Node) {
		w.want.fdb[mac] = p.Node
	}
}

func (w *writer) route(p topology.Peer) route {
	r := route{p.Subnet, p.Node, w.dev.Ifindex, w.family.metric, RouteProtocol}
	switch {
	case p.Encap == topology.EncapNone:
		r.ifindex = p.Path.Ifindex
	case p.Encap == topology.EncapVXLAN:
		r.gateway = p.VTEP.Addr
	case p.Subnet.Addr().Is6() || p.Node.Is6():
		r.gateway = p.Subnet.Addr() // only to be shown, as is the node; but that is behind another device
	}
	return r
}

// mtu is that of the route to a peer where the path carries less than the
// network's packets, else 0. The kernel then cuts what is too big, or tells its
// sender: behind the overlay device it would be dropped, and at a gateway the
// kernel does not look at the MTU of the route to that.
func (w *writer) mtu(p topology.Peer) int {
	if p.Path.MTU >= w.self.MTU+w.self.Encap.Overhead(p.Node) {
		return 0
	}
	return max(w.self.MTUTo(p), w.family.minMTU)
}

// serve writes what one peer lacks, in the order FDB, neighbour, route.
func (w *writer) serve(p topology.Peer) error {
	if p.Encap == topology.EncapVXLAN {
		if !unicast(p.VTEP.MAC) {
			return fmt.Errorf("VTEP MAC %s is not the address of one device: restart the daemon of node %s",
				hardwareAddr(p.VTEP.MAC), p.Node)
		}
		if err := w.setFDB(p.VTEP.MAC); err != nil {
			return err
		}
		if err := w.setNeighbour(p.VTEP); err != nil {
			return err
		}
	}
	if w.dev.Name == IPIPName && p.Encap == topology.EncapIPIP && !p.Node.Is4() {
		return fmt.Errorf("node %s has no IPv4 address, and the kernel's ipip device carries IPv4 in IPv4 alone: choose the dataplane ebpf", p.Node)
	}
	return w.setRoute(w.route(p))
}

// takeOver makes ours the route to a peer's subnet by its node that flanneld
// sets in a host-gw network, or somebody by hand: ours, which says the same or
// better, stands in front of it, and behind it would come to light when the peer is gone.
func (w *writer) takeOver(p topology.Peer) {
	theirs := route{p.Subnet, p.Node, p.Path.Ifindex, w.family.flannels, unix.RTPROT_BOOT}
	if w.have.others[theirs] {
		delete(w.have.others, theirs)
		w.have.routes[theirs] = 0
	}
}

// strays are the routes of others into the network that no lease asks for.
// flanneld leaves some, but so may a person, who is to decide.
func (w *writer) strays(network netip.Prefix) (problems []topology.Problem) {
	leased := map[netip.Prefix]bool{}
	for r := range w.want.routes {
		leased[r.dst] = true
	}
	for r := range w.have.others {
		if !network.IsValid() || !network.Contains(r.dst.Addr()) || r.dst.Bits() < network.Bits() || leased[r.dst] || r.ifindex != w.self.Uplink {
			continue
		}
		problems = append(problems, topology.Problem{Key: r.dst.String(), Text: fmt.Sprintf(
			"is routed via %s though no lease is there: if flanneld left it, or nobody needs it, run \"ip route del %s\"", r.gateway, r)})
	}
	return problems
}

// setFDB writes the entry of a MAC; this node's own has none.
func (w *writer) setFDB(mac topology.MAC) error {
	node, wanted := w.want.fdb[mac]
	if !wanted || w.have.fdb[mac] == node {
		return nil
	}
	if err := w.NeighSet(w.fdbEntry(mac, node)); err != nil {
		return fmt.Errorf("set FDB entry %s dst %s: %w", hardwareAddr(mac), node, err)
	}
	return nil
}

func (w *writer) setNeighbour(v topology.VTEP) error {
	if w.have.neighbours[v.Addr] == v.MAC {
		return nil
	}
	if err := w.NeighSet(w.neighbour(v.Addr, v.MAC)); err != nil {
		return fmt.Errorf("set neighbour %s lladdr %s: %w", v.Addr, hardwareAddr(v.MAC), err)
	}
	return nil
}

// setRoute changes the MTU of a route in place, and puts a missing route in front of any other to the same destination.
// So it is in force at once, and one that is not ours, such as flannel's, is
// back in force when ours goes.
func (w *writer) setRoute(r route) error {
	mtu, there := w.have.routes[r]
	if there && mtu == w.want.routes[r] {
		return nil
	}
	if ifindex, own := w.have.connected[r.dst]; own {
		return fmt.Errorf("%s is also the network of this node's own %s: remove the address there, or release the lease",
			r.dst, w.linkName(ifindex))
	}
	write := w.family.add
	if there {
		write = w.family.change
	}
	if err := write(w.kernel, r.netlink(w.want.routes[r])); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", r, w.linkName(r.ifindex), err)
	}
	return nil
}

// prune removes our entries that no peer wanted.
func (w *writer) prune() error {
	var errs []error
	for r := range w.have.routes {
		if _, wanted := w.want.routes[r]; !wanted {
			errs = append(errs, w.delRoute(r))
		}
	}
	for addr, mac := range w.have.neighbours {
		if _, wanted := w.want.neighbours[addr]; !wanted {
			errs = append(errs, removal("neighbour", addr, w.NeighDel(w.neighbour(addr, mac))))
		}
	}
	for mac, node := range w.have.fdb {
		if _, wanted := w.want.fdb[mac]; !wanted {
			errs = append(errs, removal("FDB entry", hardwareAddr(mac), w.NeighDel(w.fdbEntry(mac, node))))
		}
	}
	return errors.Join(errs...)
}

func (k kernel) delRoute(r route) error { return removal("route", r, k.RouteDel(r.netlink(0))) }

func removal(what string, which fmt.Stringer, err error) error {
	if err == nil || gone(err) {
		return nil
	}
	return fmt.Errorf("remove %s %s: %w", what, which, err)
}

func (w *writer) fdbEntry(mac topology.MAC, node netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		Family:       unix.AF_BRIDGE,
		LinkIndex:    w.dev.Ifindex,
		Flags:        netlink.NTF_SELF,
		State:        netlink.NUD_PERMANENT,
		HardwareAddr: hardwareAddr(mac),
		IP:           node.AsSlice(),
	}
}

func (w *writer) neighbour(addr netip.Addr, mac topology.MAC) *netlink.Neigh {
	return &netlink.Neigh{
		Family:       w.family.number,
		LinkIndex:    w.dev.Ifindex,
		State:        netlink.NUD_PERMANENT,
		HardwareAddr: hardwareAddr(mac),
		IP:           addr.AsSlice(),
	}
}

// linkName names a link for people, by its number where it has gone.
func (k kernel) linkName(ifindex int) string {
	link, err := k.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Sprintf("link %d", ifindex)
	}
	return link.Attrs().Name
}
