// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"cmp"
	"errors"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// What an earlier daemon left in the maps, so that only differences are
// written. Entries of other networks are not looked at.

func (d *Dataplane) readHosts() error {
	entries, err := d.set.Hosts.All()
	d.hosts = newHostTable(d.set.Hosts, entries, hostFirst, nil)
	return err
}

// readRoutes is for when the hosts are known. It reads the templates too: which of
// them are right, the slots' routes say.
func (d *Dataplane) readRoutes() error {
	all, err := d.set.Routes.All()
	slots, slotsErr := d.set.Routes.IndexEntries()
	entries, templatesErr := d.set.Templates.All()
	d.templates = newHostTable(d.set.Templates, entries, templateFirst, named(slots))
	d.routes = table[netip.Prefix, uint32]{
		have:    map[netip.Prefix]uint32{},
		odd:     d.odd(slots),
		compare: netip.Prefix.Compare,
		set:     d.putRoute,
		del:     func(p netip.Prefix) error { return d.set.Routes.Delete(d.network, p) },
	}
	for _, r := range all {
		if r.Network == d.network {
			d.routes.have[r.Prefix] = r.Host
		}
	}
	return errors.Join(err, slotsErr, templatesErr)
}

// odd is the routes of slots that putRoute would write otherwise: a place that is still
// to be written is one that no slot names.
func (d *Dataplane) odd(slots []maps.Entry[maps.RouteKey, maps.Slot]) map[netip.Prefix]bool {
	odd := map[netip.Prefix]bool{}
	for _, s := range slots {
		want, err := d.shortcut(s.Value.Host, d.templates.place)
		if err != nil || s.Value.Shortcut != want {
			odd[s.Key.Prefix] = true
		}
	}
	return odd
}

func (d *Dataplane) readNodes() error {
	all, err := d.set.Nodes.All()
	d.nodes = table[netip.Addr, uint32]{
		have: all, compare: netip.Addr.Compare, set: d.set.Nodes.Put, del: d.set.Nodes.Delete,
	}
	return err
}

func (d *Dataplane) readNeigh() error {
	d.neigh = table[netip.Addr, topology.MAC]{
		have:    map[netip.Addr]topology.MAC{},
		compare: netip.Addr.Compare,
		set:     func(a netip.Addr, mac topology.MAC) error { return d.set.Neigh.Put(d.network, a, mac) },
		del:     func(a netip.Addr) error { return d.set.Neigh.Delete(d.network, a) },
	}
	all, err := d.set.Neigh.All()
	for k, mac := range all {
		if k.Network == d.network {
			d.neigh.have[k.Addr] = mac
		}
	}
	return err
}

// readFDB takes in the entries of other VNIs too: the network's may have changed since they were written.
func (d *Dataplane) readFDB() error {
	all, err := d.set.FDB.All()
	d.fdb = table[maps.FDBKey, uint32]{
		have: all,
		compare: func(a, b maps.FDBKey) int {
			return cmp.Or(cmp.Compare(a.VNI, b.VNI), bytes.Compare(a.MAC[:], b.MAC[:]))
		},
		set: func(k maps.FDBKey, host uint32) error { return d.set.FDB.Put(k.VNI, k.MAC, host) },
		del: func(k maps.FDBKey) error { return d.set.FDB.Delete(k.VNI, k.MAC) },
	}
	return err
}
