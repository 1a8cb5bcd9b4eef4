// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/containers"
	"github.com/bpfnet/bpfnet/maps"
)

// Endpoints is the writer of the endpoints map: this node's containers. Not for
// concurrent use.
type Endpoints struct {
	set     *maps.Set
	network uint32
	table   table[netip.Addr, maps.Endpoint]
}

// NewEndpoints reads what the map holds for a network, and completes what an earlier writer was killed in the middle of.
func NewEndpoints(set *maps.Set, network uint32) (*Endpoints, error) {
	e := &Endpoints{set, network, table[netip.Addr, maps.Endpoint]{
		have:    map[netip.Addr]maps.Endpoint{},
		compare: netip.Addr.Compare,
		set:     func(a netip.Addr, ep maps.Endpoint) error { return set.Endpoints.Put(network, a, ep) },
		del:     func(a netip.Addr) error { return set.Endpoints.Delete(network, a) },
	}}
	all, err := set.Endpoints.Reindex()
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	for k, ep := range all {
		if k.Network == network {
			e.table.have[k.Addr] = ep
		}
	}
	return e, nil
}

// Reread forgets what is known of the map and reads what it holds: others may
// have written to it. After an error what was known before is kept.
func (e *Endpoints) Reread() error {
	fresh, err := NewEndpoints(e.set, e.network)
	if err != nil {
		return err
	}
	*e = *fresh
	return nil
}

// Known is what the map holds.
func (e *Endpoints) Known() []containers.Endpoint {
	known := make([]containers.Endpoint, 0, len(e.table.have))
	for a, ep := range e.table.have {
		known = append(known, containers.Endpoint{Addr: a, Ifindex: int(ep.Ifindex), MAC: ep.MAC, Gateway: ep.Gateway})
	}
	return known
}

// Apply makes the map equal to what was found. An address that cannot be
// written is served by the kernel's path.
func (e *Endpoints) Apply(found []containers.Endpoint) error {
	want := make(map[netip.Addr]maps.Endpoint, len(found))
	for _, f := range found {
		want[f.Addr] = maps.Endpoint{Ifindex: uint32(f.Ifindex), MAC: f.MAC, Gateway: f.Gateway}
	}
	// Removed first: an address whose container went must not be delivered to another's link,
	// and the room may be needed.
	return errors.Join(e.table.prune(e.table.all(), want), e.table.put(want))
}
