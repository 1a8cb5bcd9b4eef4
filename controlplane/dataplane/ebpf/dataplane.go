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

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// Dataplane is the writer of every map that comes from etcd. Not for
// concurrent use.
type Dataplane struct {
	set     *maps.Set
	network uint32
	vni     uint32
	hosts   *hostTable
	routes  table[netip.Prefix, uint32]
	nodes   table[netip.Addr, uint32]
	neigh   table[netip.Addr, topology.MAC]
	fdb     table[maps.FDBKey, uint32]
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

// Apply makes the maps equal to the state. What cannot be written is in the
// error; everything else is served, and a peer that changed keeps what it had.
func (d *Dataplane) Apply(s topology.State) error {
	w := d.want(s)
	// Filled before the routes that point to them, taken away after: a packet
	// finds all it needs or none.
	w.err = errors.Join(w.err,
		d.nodes.put(w.nodes), d.neigh.put(w.neigh), d.fdb.put(w.fdb),
		d.routes.put(w.routes),
		d.routes.prune(w.routes),
		d.fdb.prune(w.fdb), d.neigh.prune(w.neigh), d.nodes.prune(w.nodes),
	)
	// Also what could not be written or removed points to hosts.
	use(w.used, d.routes.have)
	use(w.used, d.nodes.have)
	use(w.used, d.fdb.have)
	return errors.Join(w.err, d.hosts.prune(w.used))
}

func use[K comparable](used map[uint32]bool, have map[K]uint32) {
	for _, index := range have {
		used[index] = true
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

func (d *Dataplane) want(s topology.State) *wanted {
	w := &wanted{
		used:   map[uint32]bool{hostSelf: true},
		routes: map[netip.Prefix]uint32{s.Self.Subnet: hostSelf},
		nodes:  map[netip.Addr]uint32{},
		neigh:  map[netip.Addr]topology.MAC{},
		fdb:    map[maps.FDBKey]uint32{},
	}
	w.err = d.hosts.putSelf(maps.Host{Node: s.Self.Node, NextHop: s.Self.Node, Ifindex: uint32(s.Self.Uplink)})
	var failed failures
	for _, p := range s.Peers {
		if err := d.wantPeer(w, s.Self, p); err != nil {
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
