// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// work is what is to be written to the kernel until it serves a state: the
// peers that changed first, for they may be in use, and then the rest. What goes
// is removed once what comes in its place stands.
type work struct {
	family family
	self   topology.Self
	dev    Device
	across Device // see device
	// acrossErr is why there is none.
	acrossErr error
	spread    bool    // the cluster is large
	have      *tables // what the kernel holds
	want      *tables // by the peers that are looked at: all, or those that differ
	whole     bool    // that is all: what is not in want has to go

	changed []*topology.Peer
	had     *tables                  // what those had that changed
	stale   map[netip.Prefix][]route // ours, that go when the peer there is served: of two with one metric the kernel changes the first
	rest    []*topology.Peer
	cover   *cover // nil for none
	failed  map[string]topology.Problem
}

func newWork(v *View, s topology.State, f family) *work {
	return &work{
		family: f, self: s.Self, dev: v.dev, across: v.across, spread: f.spread && len(s.Peers) > plainRoutes, have: v.have,
		want: newTables(), had: newTables(), stale: map[netip.Prefix][]route{}, failed: map[string]topology.Problem{},
	}
}

// all has all peers looked at.
func (w *work) all(peers []topology.Peer, step Step) {
	w.whole = true
	for i := range peers {
		w.claim(&peers[i])
	}
	for r := range w.have.routes {
		if _, wanted := w.want.routes[r]; !wanted {
			w.stale[r.dst] = append(w.stale[r.dst], r)
		}
	}
	for i := range peers {
		if w.lacks(&peers[i]) {
			w.rest = append(w.rest, &peers[i])
		}
	}
	if step.Cover && w.dev.Ifindex != 0 && len(w.rest) > step.Peers {
		w.cover = w.coverOf(w.rest)
	}
}

// change has the peers looked at that differ, as they were and as they are.
func (w *work) change(was, is []topology.Peer) {
	if len(was)+len(is) == 0 {
		return
	}
	gone := make(map[string]bool, len(was))
	for i := range was {
		gone[was[i].Key] = true
		delete(w.failed, was[i].Key)
		w.unclaim(&was[i])
	}
	isGone := func(p *topology.Peer) bool { return gone[p.Key] }
	w.changed, w.rest = slices.DeleteFunc(w.changed, isGone), slices.DeleteFunc(w.rest, isGone)
	for i := range is {
		w.claim(&is[i])
		w.changed = append(w.changed, &is[i])
	}
}

func (w *work) left() int { return len(w.changed) + len(w.rest) }

// next takes the peer that is to be written now.
func (w *work) next() *topology.Peer {
	from := &w.changed
	if len(*from) == 0 {
		from = &w.rest
	}
	p := (*from)[0]
	*from = (*from)[1:]
	return p
}

// claim notes the entries that a peer needs. Of several nodes with one VTEP MAC,
// of which topology.Build tells, only one can have the FDB entry: the one that
// has it, else the first. The routes of all lead into the overlay, where the
// eBPF programs tell them apart by their subnets.
func (w *work) claim(p *topology.Peer) {
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

// unclaim is the end of a peer, or of what it was: what it had goes unless
// somebody claims it. Who shares an entry with it is unclaimed as well: see [topology.Changes].
func (w *work) unclaim(p *topology.Peer) {
	r := w.route(p)
	move(r, w.want.routes, w.have.routes, w.had.routes)
	w.stale[r.dst] = append(w.stale[r.dst], r)
	if p.Encap == topology.EncapVXLAN {
		move(p.VTEP.Addr, w.want.neighbours, w.have.neighbours, w.had.neighbours)
		move(p.VTEP.MAC, w.want.fdb, w.have.fdb, w.had.fdb)
	}
}

func move[K comparable, V any](k K, want, have, had map[K]V) {
	delete(want, k)
	if v, ok := have[k]; ok {
		had[k] = v
	}
}

// lacks reports whether something is to be written for a peer, or to be said.
func (w *work) lacks(p *topology.Peer) bool {
	r := w.route(p)
	has, there := w.have.routes[r]
	if !there || has != w.want.routes[r] {
		return true
	}
	node, wanted := w.want.fdb[p.VTEP.MAC]
	return p.Encap == topology.EncapVXLAN && (w.have.neighbours[p.VTEP.Addr] != p.VTEP.MAC || wanted && w.have.fdb[p.VTEP.MAC] != node)
}

// problems are the peers that cannot be served, sorted.
func (w *work) problems() (all []topology.Problem) {
	for _, p := range w.failed {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b topology.Problem) int { return cmp.Compare(a.Key, b.Key) })
	return all
}
