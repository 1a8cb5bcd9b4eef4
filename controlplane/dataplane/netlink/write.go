// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// writer carries one step of a work.
type writer struct {
	kernel
	*work
}

// advance writes some peers and returns how many are left.
func (w *writer) advance(peers int) (left int) {
	w.serveCover()
	for ; peers > 0 && w.left() > 0; peers-- {
		p := w.next()
		if err := w.serve(p); err != nil {
			w.failed[p.Key] = topology.Problem{Key: p.Key, Text: err.Error()}
		}
	}
	return w.left()
}

// serveCover comes before the first peer; where it cannot be, peers are served
// from when they are written.
func (w *writer) serveCover() {
	if w.cover == nil {
		return
	}
	if mac, wanted := w.want.neighbours[w.cover.gateway]; wanted {
		if w.setNeighbour(topology.VTEP{Addr: w.cover.gateway, MAC: mac}) != nil {
			return
		}
	}
	for _, r := range w.cover.routes {
		_ = w.setRoute(r) // the others are of use without it
	}
}

// pruneChanged removes what peers had that changed, once they stand as they are now.
func (w *writer) pruneChanged() error {
	if len(w.changed) > 0 {
		return nil
	}
	w.spareNamed()
	err := w.prune(w.had)
	w.had = newTables()
	return err
}

// spareNamed leaves to finish the FDB entries whose MAC a neighbour has that
// stays until then: one that a predecessor wrote for a peer not looked at yet.
func (w *writer) spareNamed() {
	if !w.whole || len(w.had.fdb) == 0 {
		return
	}
	for addr, mac := range w.have.neighbours {
		_, had := w.had.neighbours[addr]
		_, wanted := w.want.neighbours[addr]
		if !had || wanted {
			delete(w.had.fdb, mac)
		}
	}
}

// finish removes what nobody needs, where all is known that anybody does.
func (w *writer) finish() error {
	w.uncover()
	if !w.whole {
		return nil
	}
	return w.prune(w.have)
}

// route is the one to a peer. In a large cluster its metric is one of many, but that of
// flanneld where it is there already, or has to go before somebody else's.
func (w *work) route(p *topology.Peer) route {
	dev := w.device(p)
	r := route{p.Subnet, p.Node, dev.Ifindex, w.family.metric, RouteProtocol}
	switch {
	case p.Encap == topology.EncapNone:
		r.ifindex = p.Path.Ifindex
	case p.Encap == topology.EncapVXLAN:
		r.gateway = p.VTEP.Addr
	case dev.Name == SITName:
		r.gateway = compatible(p.Node)
	case p.Subnet.Addr().Is6() || p.Node.Is6():
		r.gateway = p.Subnet.Addr() // only to be shown, as is the node; but that is behind another device
	}
	if _, there := w.have.routes[r]; there || !w.family.spread {
		return r
	}
	far := r
	far.metric = spread(r.dst)
	if _, there := w.have.routes[far]; there || w.spread && !w.have.taken[r.dst] {
		return far
	}
	return r
}

func (w *work) attrs(p *topology.Peer) attrs {
	a := attrs{mtu: w.mtu(p)}
	if p.Encap != topology.EncapNone && w.device(p).Name == IP6Name {
		a.ends = ends{w.self.Source(p.Node), p.Node}
	}
	return a
}

// mtu is that of the route to a peer where the path carries less than the
// network's packets, else 0. The kernel then cuts what is too big, or tells its
// sender: behind the overlay device it would be dropped, and at a gateway the
// kernel does not look at the MTU of the route to that.
func (w *work) mtu(p *topology.Peer) int {
	if p.Path.MTU >= w.self.MTU+w.self.Encap.Overhead(p.Node) {
		return 0
	}
	return max(w.self.MTUTo(*p), w.family.minMTU)
}

// serve writes what one peer lacks, in the order FDB, neighbour, route.
func (w *writer) serve(p *topology.Peer) error {
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
	if p.Encap != topology.EncapNone && w.device(p) == (Device{}) {
		return fmt.Errorf("node %s has an address of the other family alone: %w", p.Node, w.acrossErr)
	}
	if err := w.setRoute(w.route(p)); err != nil {
		return err
	}
	return w.removeStale(p.Subnet)
}

func (w *writer) removeStale(dst netip.Prefix) error {
	for _, r := range w.stale[dst] {
		_, wanted := w.want.routes[r]
		if _, there := w.have.routes[r]; wanted || !there {
			continue
		}
		if err := w.delRoute(r); err != nil {
			return err
		}
		delete(w.have.routes, r)
	}
	delete(w.stale, dst)
	return nil
}

// takeOver makes ours the route to a peer's subnet by its node that flanneld
// sets in a host-gw network, or somebody by hand: ours, which says the same or
// better, stands in front of it, and behind it would come to light when the peer is gone.
func (w *work) takeOver(p *topology.Peer) {
	theirs := route{p.Subnet, p.Node, p.Path.Ifindex, w.family.flannels, unix.RTPROT_BOOT}
	if w.have.others[theirs] {
		delete(w.have.others, theirs)
		w.have.routes[theirs] = attrs{}
		w.stale[theirs.dst] = append(w.stale[theirs.dst], theirs)
	}
}

// strays are the routes of others into the network that no lease asks for.
// flanneld leaves some, but so may a person, who is to decide.
func (w *writer) strays(s topology.State) (problems []topology.Problem) {
	inside := func(r route) bool {
		return s.Network.IsValid() && s.Network.Contains(r.dst.Addr()) && r.dst.Bits() >= s.Network.Bits() && r.ifindex == w.self.Uplink
	}
	leased := map[netip.Prefix]bool{}
	for r := range w.have.others {
		if !inside(r) {
			continue
		}
		if len(leased) == 0 {
			for i := range s.Peers {
				leased[s.Peers[i].Subnet] = true
			}
		}
		if leased[r.dst] {
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
	if err := w.setEntry(unix.AF_BRIDGE, mac, node); err != nil {
		return fmt.Errorf("set FDB entry %s dst %s: %w", hardwareAddr(mac), node, err)
	}
	w.have.fdb[mac] = node
	return nil
}

func (w *writer) setNeighbour(v topology.VTEP) error {
	if w.have.neighbours[v.Addr] == v.MAC {
		return nil
	}
	if err := w.setEntry(w.family.number, v.MAC, v.Addr); err != nil {
		return fmt.Errorf("set neighbour %s lladdr %s: %w", v.Addr, hardwareAddr(v.MAC), err)
	}
	w.have.neighbours[v.Addr] = v.MAC
	return nil
}

// setRoute changes the attributes of a route in place, and puts a missing route in front of any other to the same
// destination with the same metric. So it is in force at once, where the metric does not differ (spread.go), and one that is not
// ours, such as flannel's, is back in force when ours goes.
func (w *writer) setRoute(r route) error {
	has, there := w.have.routes[r]
	wants := w.want.routes[r]
	if there && has == wants {
		return nil
	}
	if ifindex, own := w.have.connected[r.dst]; own {
		return fmt.Errorf("%s is also the network of this node's own %s: remove the address there, or release the lease",
			r.dst, w.linkName(ifindex))
	}
	put := w.family.add
	if there {
		put = w.family.change
	}
	if err := put(w.kernel, r, wants); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", r, w.linkName(r.ifindex), err)
	}
	w.have.routes[r] = wants
	return nil
}

// prune removes those entries of ours that no peer wants.
func (w *writer) prune(some *tables) error {
	return errors.Join(
		prune(some.routes, w.want.routes, w.have.routes, func(r route, _ attrs) error { return w.delRoute(r) }),
		prune(some.neighbours, w.want.neighbours, w.have.neighbours, func(a netip.Addr, mac topology.MAC) error {
			return removal("neighbour", a, w.delEntry(w.family.number, mac, a))
		}),
		prune(some.fdb, w.want.fdb, w.have.fdb, func(mac topology.MAC, node netip.Addr) error {
			return removal("FDB entry", hardwareAddr(mac), w.delEntry(unix.AF_BRIDGE, mac, node))
		}),
	)
}

func prune[K comparable, V any](had, want, have map[K]V, remove func(K, V) error) error {
	var errs []error
	for k := range had {
		_, wanted := want[k]
		v, there := have[k]
		if wanted || !there {
			continue
		}
		err := remove(k, v)
		if err == nil {
			delete(have, k)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// delRoute removes a route, whatever its attributes.
func (k kernel) delRoute(r route) error {
	return removal("route", r, k.writeRoute(unix.RTM_DELROUTE, 0, r, attrs{}))
}

func removal(what string, which fmt.Stringer, err error) error {
	if err == nil || gone(err) {
		return nil
	}
	return fmt.Errorf("remove %s %s: %w", what, which, err)
}

// setEntry and delEntry write a permanent entry of the overlay device, of the neighbour table or the FDB.
func (w *writer) setEntry(family int, mac topology.MAC, addr netip.Addr) error {
	return w.writeNeighbour(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, family, w.dev.Ifindex, neighbour{mac, addr})
}

func (w *writer) delEntry(family int, mac topology.MAC, addr netip.Addr) error {
	return w.writeNeighbour(unix.RTM_DELNEIGH, 0, family, w.dev.Ifindex, neighbour{mac, addr})
}

// linkName names a link for people, by its number where it has gone.
func (k kernel) linkName(ifindex int) string {
	link, err := k.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Sprintf("link %d", ifindex)
	}
	return link.Attrs().Name
}
