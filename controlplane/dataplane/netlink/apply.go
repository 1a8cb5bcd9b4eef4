// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// View is the kernel's view of the network: its routes, neighbours and FDB, as
// they were listed and as they were written since. The zero View knows nothing
// yet. Not for concurrent use; one is for one family.
type View struct {
	have    *tables         // nil before they are listed
	dev     Device          // for which they were
	applied *topology.State // what they serve; nil where that is not known
	across  Device
}

// Across is a second device beside dev of the last Apply; the zero Device for none. By it go
// the packets of ipip by the kernel to peers that have an address of the other family alone.
func (v *View) Across() Device { return v.across }

// Doubt has the tables listed again by the next Apply: others may have written to them.
func (v *View) Doubt() { *v = View{} }

// Apply makes the kernel's routes, neighbours and FDB serve the peers of s and
// removes what of ours serves none, whoever left it. What is right already is
// not written. The peers' subnets must not overlap. dev is what [EnsureOverlay]
// has returned. Where all went well before, only the peers that differ from then
// are looked at, for which s is kept: it must not be written to any more.
//
// A peer that cannot be served is returned as a problem; the others are served.
// The error tells what concerns them all: a table that cannot be listed, a stale
// entry that cannot be removed.
func (v *View) Apply(s topology.State, dev Device) ([]topology.Problem, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	f := familyOf(s.Self.Subnet.Addr())
	if v.have == nil || v.dev != dev {
		*v = View{dev: dev}
		if v.have, err = k.list(f, dev.Ifindex); err != nil {
			v.Doubt()
			return nil, err
		}
	}
	w := writer{kernel: k, family: f, self: s.Self, dev: dev, across: v.across, have: v.have, had: v.have, want: newTables()}
	peers := s.Peers
	if v.applied != nil && v.applied.Self == s.Self {
		var was []topology.Peer
		was, peers = topology.Changes(v.applied.Peers, s.Peers)
		w.had = w.of(was)
	}
	problems := w.apply(peers)
	v.across = w.across
	err = w.prune()
	if v.applied == nil {
		err = errors.Join(err, w.removeUnused())
	}
	if v.applied = nil; err == nil && len(problems) == 0 {
		v.applied = &s
	}
	return append(problems, w.strays(s)...), err
}

// writer carries one Apply.
type writer struct {
	kernel
	family family
	self   topology.Self
	dev    Device
	across Device // see device
	// acrossErr is why there is none.
	acrossErr error
	have      *tables // what the kernel holds
	had       *tables // of that, what goes unless it is wanted: all, or what those peers had that differ
	want      *tables // by the peers that are looked at
}

// of is what the kernel holds of some peers.
func (w *writer) of(peers []topology.Peer) *tables {
	t := newTables()
	for _, p := range peers {
		add(t.routes, w.have.routes, w.route(p))
		if p.Encap == topology.EncapVXLAN {
			add(t.neighbours, w.have.neighbours, p.VTEP.Addr)
			add(t.fdb, w.have.fdb, p.VTEP.MAC)
		}
	}
	return t
}

func add[K comparable, V any](to, from map[K]V, k K) {
	if v, ok := from[k]; ok {
		to[k] = v
	}
}

func (w *writer) apply(peers []topology.Peer) (problems []topology.Problem) {
	w.ensureAcross(peers)
	for _, p := range peers {
		w.claim(p)
	}
	for _, p := range peers {
		if err := w.serve(p); err != nil {
			problems = append(problems, topology.Problem{Key: p.Key, Text: err.Error()})
		}
	}
	return problems
}

// claim notes the entries that a peer needs. Of several nodes with one VTEP MAC,
// of which topology.Build tells, only one can have the FDB entry: the one that
// has it, else the first. The routes of all lead into the overlay, where the
// eBPF programs tell them apart by their subnets.
func (w *writer) claim(p topology.Peer) {
	mac := p.VTEP.MAC
	if p.Encap == topology.EncapVXLAN && !unicast(mac) || p.Encap != topology.EncapNone && w.device(p) == (Device{}) {
		return
	}
	w.want.routes[w.route(p)] = w.attrs(p)
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
	return r
}

func (w *writer) attrs(p topology.Peer) attrs {
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
	if p.Encap != topology.EncapNone && w.device(p) == (Device{}) {
		return fmt.Errorf("node %s has an address of the other family alone: %w", p.Node, w.acrossErr)
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
		w.have.routes[theirs], w.had.routes[theirs] = attrs{}, attrs{}
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

// setRoute changes the attributes of a route in place, and puts a missing route in front of any other to the same destination.
// So it is in force at once, and one that is not ours, such as flannel's, is
// back in force when ours goes.
func (w *writer) setRoute(r route) error {
	has, there := w.have.routes[r]
	wants := w.want.routes[r]
	if there && has.mtu == wants.mtu && has.ends == wants.ends {
		return nil
	}
	if ifindex, own := w.have.connected[r.dst]; own {
		return fmt.Errorf("%s is also the network of this node's own %s: remove the address there, or release the lease",
			r.dst, w.linkName(ifindex))
	}
	if err := w.putRoute(r, has, there, wants); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", r, w.linkName(r.ifindex), err)
	}
	return nil
}

func (w *writer) putRoute(r route, has attrs, there bool, wants attrs) (err error) {
	if there {
		wants.nexthop = has.nexthop
		err = w.family.change(w.kernel, r, wants)
	} else if wants.nexthop, err = w.nexthopFor(r, wants); err == nil {
		err = w.family.add(w.kernel, r, wants)
	}
	if err != nil {
		return err
	}
	if w.have.routes[r] = wants; !there && wants.nexthop != 0 {
		w.have.count(r.hop(), +1)
	}
	return nil
}

// prune removes our entries that no peer wanted.
func (w *writer) prune() error {
	return errors.Join(
		prune(w.had.routes, w.want.routes, w.have.routes, func(r route, a attrs) error {
			return errors.Join(w.delRoute(r, a), w.release(r, a))
		}),
		prune(w.had.neighbours, w.want.neighbours, w.have.neighbours, func(a netip.Addr, mac topology.MAC) error {
			return removal("neighbour", a, w.delEntry(w.family.number, mac, a))
		}),
		prune(w.had.fdb, w.want.fdb, w.have.fdb, func(mac topology.MAC, node netip.Addr) error {
			return removal("FDB entry", hardwareAddr(mac), w.delEntry(unix.AF_BRIDGE, mac, node))
		}),
	)
}

func prune[K comparable, V any](had, want, have map[K]V, remove func(K, V) error) error {
	var errs []error
	for k := range had {
		if _, wanted := want[k]; wanted {
			continue
		}
		err := remove(k, have[k])
		if err == nil {
			delete(have, k)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (k kernel) delRoute(r route, a attrs) error {
	a.mtu, a.ends = 0, ends{} // of any
	return removal("route", r, k.writeRoute(unix.RTM_DELROUTE, 0, r, a))
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
