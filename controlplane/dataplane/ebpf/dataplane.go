// SPDX-License-Identifier: Apache-2.0

// Package ebpf applies the desired state to the datapath's maps.
//
// Entries of hosts are addressed by content: a peer whose entry is in the map
// already, by an earlier daemon or an earlier call, keeps its index and nothing
// is written. An entry that routes point to is never changed; a peer that
// changes gets a new entry, and its route is pointed there.
package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// Dataplane is the writer of every map that comes from etcd. Not for
// concurrent use.
type Dataplane struct {
	set       *maps.Set
	network   uint32
	vni       uint32
	hosts     *hostTable
	templates *hostTable
	routes    table[netip.Prefix, uint32]
	nodes     table[netip.Addr, uint32]
	neigh     table[netip.Addr, topology.MAC]
	fdb       table[maps.FDBKey, uint32]
	applied   *joined // what the maps are equal to; nil where that is not known
}

// New reads what the maps hold. network is the number of the containers'
// network in the maps' keys, vni its VXLAN network identifier.
func New(set *maps.Set, network, vni uint32) (*Dataplane, error) {
	d := &Dataplane{set: set, network: network, vni: vni}
	return d, errors.Join(d.readHosts(), d.readRoutes(), d.readNodes(), d.readNeigh(), d.readFDB())
}

// Reread forgets what is known of the maps and reads what they hold: others
// may have written to them. After an error what was known before is kept.
func (d *Dataplane) Reread() error {
	fresh, err := New(d.set, d.network, d.vni)
	if err != nil {
		return fmt.Errorf("read maps: %w", err)
	}
	*d = *fresh
	return nil
}

// Apply makes the maps equal to the state: one of each address family that the
// network has, IPv4 first. What cannot be written is in the error; everything
// else is served, and a peer that changed keeps what it had. Where all went well
// before, only what differs from then is looked at, for which the states are
// kept: they must not be written to any more. Entries of hosts that nothing points
// to any more are left to Sweep.
func (d *Dataplane) Apply(states ...topology.State) error {
	now := join(states)
	peers, had := d.differing(now)
	err := d.change(had, d.want(now.selves, peers))
	if d.applied = nil; err == nil {
		d.applied = &now
	}
	return err
}

// Sweep clears the entries that Apply has left, for packets on their way might
// still go by them. It waits until none can, some 10 ms in which nothing is
// applied: it is for when nothing has changed for a while.
func (d *Dataplane) Sweep() error {
	if len(d.hosts.resting)+len(d.templates.resting) == 0 {
		return nil
	}
	maps.WaitForReaders()
	return errors.Join(d.hosts.clear(), d.templates.clear())
}

// joined is the states of all families as one.
type joined struct {
	selves []topology.Self
	peers  []topology.Peer // sorted by Key, which a lease's two have in common
}

func join(states []topology.State) (j joined) {
	if len(states) == 1 {
		return joined{[]topology.Self{states[0].Self}, states[0].Peers}
	}
	for _, s := range states {
		j.selves = append(j.selves, s.Self)
		j.peers = append(j.peers, s.Peers...)
	}
	slices.SortStableFunc(j.peers, func(a, b topology.Peer) int { return strings.Compare(a.Key, b.Key) })
	return j
}

// selfOf is what this node is in a peer's family.
func selfOf(selves []topology.Self, p topology.Peer) topology.Self {
	for _, s := range selves {
		if s.Subnet.Addr().BitLen() == p.Subnet.Addr().BitLen() {
			return s
		}
	}
	return topology.Self{}
}

// differing is the peers to look at, and what the maps hold that goes unless they want it.
func (d *Dataplane) differing(now joined) ([]topology.Peer, entries) {
	if d.applied == nil || !slices.Equal(d.applied.selves, now.selves) {
		return now.peers, d.all()
	}
	was, is := topology.Changes(d.applied.peers, now.peers)
	return is, d.of(was)
}

// change replaces what entries there were by those that are wanted.
func (d *Dataplane) change(had entries, w *wanted) error {
	// Filled before the routes that point to them, taken away after: a packet
	// finds all it needs or none.
	w.err = errors.Join(w.err,
		d.nodes.put(w.nodes), d.neigh.put(w.neigh), d.fdb.put(w.fdb),
		d.routes.put(w.routes),
		d.routes.prune(had.routes, w.routes),
		d.fdb.prune(had.fdb, w.fdb), d.neigh.prune(had.neigh, w.neigh), d.nodes.prune(had.nodes, w.nodes),
	)
	// Also what could not be written or removed points to hosts.
	use(w.used, had.routes, d.routes.have)
	use(w.used, had.nodes, d.nodes.have)
	use(w.used, had.fdb, d.fdb.have)
	d.hosts.rest(had.hosts, w.used)
	return errors.Join(w.err, d.restTemplates(had.templates))
}

func use[K comparable](used map[uint32]bool, keys []K, have map[K]uint32) {
	for _, k := range keys {
		if index, ok := have[k]; ok {
			used[index] = true
		}
	}
}

// wanted is the desired content of the maps. A host entry is written as it is
// asked for.
type wanted struct {
	used   map[uint32]bool
	routes map[netip.Prefix]uint32
	nodes  map[netip.Addr]uint32
	neigh  map[netip.Addr]topology.MAC
	fdb    map[maps.FDBKey]uint32
	err    error
}

func (d *Dataplane) want(selves []topology.Self, peers []topology.Peer) *wanted {
	w := &wanted{
		used:   map[uint32]bool{hostSelf: true},
		routes: map[netip.Prefix]uint32{},
		nodes:  map[netip.Addr]uint32{},
		neigh:  map[netip.Addr]topology.MAC{},
		fdb:    map[maps.FDBKey]uint32{},
	}
	for i, self := range selves {
		w.routes[self.Subnet] = hostSelf
		if i == 0 {
			w.err = d.hosts.putSelf(selfEntry(self))
		}
	}
	var failed failures
	for _, p := range peers {
		if err := d.wantPeer(w, selfOf(selves, p), p); err != nil {
			failed.add(fmt.Errorf("serve lease %s: %w", p.Key, err))
			d.keep(w, p)
		}
	}
	w.err = errors.Join(w.err, failed.err())
	return w
}

func (d *Dataplane) wantPeer(w *wanted, self topology.Self, p topology.Peer) error {
	h, err := hostEntry(self, p)
	if err != nil {
		return err
	}
	index, err := d.hosts.index(h)
	if err != nil {
		return err
	}
	w.used[index] = true
	w.routes[p.Subnet] = index
	w.nodes[p.Node] = index
	if p.Encap == topology.EncapVXLAN {
		w.neigh[p.VTEP.Addr] = p.VTEP.MAC
		w.fdb[maps.FDBKey{VNI: d.vni, MAC: p.VTEP.MAC}] = index
	}
	return nil
}

// keep leaves a peer that could not be updated with what it has.
func (d *Dataplane) keep(w *wanted, p topology.Peer) {
	index, ok := d.routes.have[p.Subnet]
	if !ok {
		return
	}
	w.routes[p.Subnet] = index
	keep(w.nodes, d.nodes.have, d.hosts.entries[index].Node)
	vtep := p.Subnet.Addr()
	keep(w.neigh, d.neigh.have, vtep)
	keep(w.fdb, d.fdb.have, maps.FDBKey{VNI: d.vni, MAC: d.neigh.have[vtep]})
}

// keep wants an entry as it is, unless another peer wants it otherwise.
func keep[K, V comparable](want, have map[K]V, k K) {
	if v, ok := have[k]; ok {
		if _, taken := want[k]; !taken {
			want[k] = v
		}
	}
}

const (
	hostSelf  = uint32(bpf.DatapathHostIndexHOST_SELF)
	hostFirst = uint32(bpf.DatapathHostIndexHOST_FIRST)
)
