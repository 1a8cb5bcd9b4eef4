// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	bpfmaps "github.com/bpfnet/bpfnet/maps"
)

// entries names some of what the maps hold, by keys.
type entries struct {
	routes []netip.Prefix
	nodes  []netip.Addr
	neigh  []netip.Addr
	fdb    []bpfmaps.FDBKey
	hosts  []uint32
	// templates are named only together with everything else: which hosts have one of them nobody counts.
	templates []uint32
}

// all is everything that the maps hold.
func (d *Dataplane) all() entries {
	return entries{
		d.routes.all(), d.nodes.all(), d.neigh.all(), d.fdb.all(),
		slices.Collect(maps.Keys(d.hosts.entries)), slices.Collect(maps.Keys(d.templates.entries)),
	}
}

// of is what the maps hold of some peers. No other peer's entries are among it
// where [topology.Changes] gave these: a host entry has its node's address in it.
func (d *Dataplane) of(peers []topology.Peer) (e entries) {
	used := map[uint32]bool{}
	for _, p := range peers {
		e.routes = append(e.routes, p.Subnet)
		e.nodes = append(e.nodes, p.Node)
		if p.Encap == topology.EncapVXLAN {
			e.neigh = append(e.neigh, p.VTEP.Addr)
			e.fdb = append(e.fdb, bpfmaps.FDBKey{VNI: d.vni, MAC: p.VTEP.MAC})
		}
	}
	use(used, e.routes, d.routes.have)
	use(used, e.nodes, d.nodes.have)
	use(used, e.fdb, d.fdb.have)
	e.hosts = slices.Collect(maps.Keys(used))
	return e
}
