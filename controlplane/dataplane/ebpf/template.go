// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

const templateFirst = 1 // 0 is none

// Where in an outer header stands what a template leaves out.
const (
	atChecksum = 10 // RFC 791
	atDst      = 16
	atVTEP     = ipv4Len + udpLen + 8 // behind VXLAN's header: the inner frame's destination
)

// split divides a host entry into what it has alone and the rest. ok is false
// where that cannot be: a slot of route_index has no room for an IPv6 address.
func split(h maps.Host) (template maps.Host, own maps.Shortcut, ok bool) {
	if !h.Node.Is4() {
		return h, own, false
	}
	own.Node = h.Node
	h.Node = netip.Addr{}
	if h.NextHop == own.Node {
		h.NextHop = netip.Addr{}
	}
	if h.HeaderLen > 0 {
		clear(h.Header[atDst:ipv4Len])
		clear(h.Header[atChecksum : atChecksum+2])
		binary.BigEndian.PutUint16(h.Header[atChecksum:], internetSum(h.Header[:ipv4Len]))
	}
	if h.Encap == bpf.DatapathEncapENCAP_VXLAN {
		own.VTEP = maps.MAC(h.Header[atVTEP:])
		clear(h.Header[atVTEP : atVTEP+len(own.VTEP)])
	}
	return h, own, true
}

// putRoute writes a route, and before it its template.
func (d *Dataplane) putRoute(p netip.Prefix, host uint32) error {
	own, err := d.shortcut(host, d.templates.index)
	if err != nil {
		return fmt.Errorf("put template of %s: %w", p, err)
	}
	return d.set.Routes.Put(maps.Route{Network: d.network, Prefix: p, Host: host, Shortcut: own})
}

// shortcut is what the slot of a host's route has, its template where place says. Without
// one, where there are as many as there may be, packets go by the entry of hosts.
func (d *Dataplane) shortcut(host uint32, place func(maps.Host) (uint32, error)) (maps.Shortcut, error) {
	template, own, ok := split(d.hosts.entries[host])
	if !ok || host == hostSelf {
		return maps.Shortcut{}, nil
	}
	index, err := place(template)
	if errors.Is(err, maps.ErrFull) {
		return maps.Shortcut{Node: own.Node}, nil
	}
	own.Template = uint8(index)
	return own, err
}

// restTemplates has those of some templates rest that no host has and no slot names.
func (d *Dataplane) restTemplates(some []uint32) error {
	if len(some) == 0 {
		return nil
	}
	used := map[uint32]bool{}
	for index, h := range d.hosts.entries {
		if template, _, ok := split(h); ok && !d.hosts.resting[index] {
			used[d.templates.indexes[template]] = true
		}
	}
	some = slices.DeleteFunc(some, func(index uint32) bool { return used[index] })
	if len(some) == 0 {
		return nil // the rule: not worth another look at all slots
	}
	// Also what could not be written or removed names templates.
	slots, err := d.set.Routes.IndexEntries()
	if err != nil {
		return err
	}
	d.templates.rest(some, named(slots))
	return nil
}

// named is the templates of slots.
func named(slots []maps.Entry[maps.RouteKey, maps.Slot]) map[uint32]bool {
	numbers := map[uint32]bool{}
	for _, s := range slots {
		numbers[uint32(s.Value.Template)] = true
	}
	return numbers
}
