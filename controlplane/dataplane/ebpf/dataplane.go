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
	fdb     table[topology.MAC, uint32]
}

// New reads what the maps hold. network is the number of the containers'
// network in the maps' keys, vni its VXLAN network identifier.
func New(set *maps.Set, network, vni uint32) (*Dataplane, error) {
	d := &Dataplane{set: set, network: network, vni: vni}
	return d, errors.Join(d.readHosts(), d.readRoutes(), d.readNodes(), d.readNeigh(), d.readFDB())
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
	for _, index := range d.routes.have {
		w.used[index] = true // also of routes that could not be written or removed
	}
	for _, index := range d.nodes.have {
		w.used[index] = true
	}
	return errors.Join(w.err, d.hosts.prune(w.used))
}

// wanted is the desired content of the maps. A host entry is written as it is
// asked for.
type wanted struct {
	used   map[uint32]bool
	routes map[netip.Prefix]uint32
	nodes  map[netip.Addr]uint32
	neigh  map[netip.Addr]topology.MAC
	fdb    map[topology.MAC]uint32
	err    error
}

func (d *Dataplane) want(s topology.State) *wanted {
	w := &wanted{
		used:   map[uint32]bool{hostSelf: true},
		routes: map[netip.Prefix]uint32{s.Self.Subnet: hostSelf},
		nodes:  map[netip.Addr]uint32{},
		neigh:  map[netip.Addr]topology.MAC{},
		fdb:    map[topology.MAC]uint32{},
	}
	w.err = d.hosts.putSelf(maps.Host{Node: s.Self.Node, NextHop: s.Self.Node, Ifindex: uint32(s.Self.Uplink)})
	for _, p := range s.Peers {
		index, err := d.hostIndex(s.Self, p)
		if err != nil {
			w.err = errors.Join(w.err, fmt.Errorf("serve lease %s: %w", p.Key, err))
			d.keep(w, p)
			continue
		}
		w.used[index] = true
		w.routes[p.Subnet] = index
		w.nodes[p.Node] = index
		if p.Encap == topology.EncapVXLAN {
			w.neigh[p.VTEP.Addr] = p.VTEP.MAC
			w.fdb[p.VTEP.MAC] = index
		}
	}
	return w
}

func (d *Dataplane) hostIndex(self topology.Self, p topology.Peer) (uint32, error) {
	h, err := hostEntry(self, p)
	if err != nil {
		return 0, err
	}
	return d.hosts.index(h)
}

// keep leaves a peer that could not be updated with what it has.
func (d *Dataplane) keep(w *wanted, p topology.Peer) {
	if index, ok := d.routes.have[p.Subnet]; ok {
		w.routes[p.Subnet] = index
	}
	if index, ok := d.nodes.have[p.Node]; ok {
		w.nodes[p.Node] = index
	}
	if mac, ok := d.neigh.have[p.VTEP.Addr]; ok {
		w.neigh[p.VTEP.Addr] = mac
	}
	if index, ok := d.fdb.have[p.VTEP.MAC]; ok {
		w.fdb[p.VTEP.MAC] = index
	}
}

const (
	hostSelf  = uint32(bpf.DatapathHostIndexHOST_SELF)
	hostFirst = uint32(bpf.DatapathHostIndexHOST_FIRST)
)
