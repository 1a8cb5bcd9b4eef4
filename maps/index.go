// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// routeIndex is the array in front of the trie: windows on the subnets of one
// network, one for each address family.
type routeIndex struct {
	m       *ebpf.Map
	network uint32
	windows []Window
}

func newRouteIndex(m *ebpf.Map, s *Settings) routeIndex {
	x := routeIndex{m: m, network: s.Network}
	for _, w := range []Window{s.IPv4.Index, s.IPv6.Index} {
		w.Count = min(w.Count, m.MaxEntries()-min(w.First, m.MaxEntries()))
		if w.Count > 0 {
			x.windows = append(x.windows, w)
		}
	}
	return x
}

// slotOf is the slot an address falls into, as route_lookup in bpf/include/route.h has it.
func (x *routeIndex) slotOf(a netip.Addr) (slot uint32, ok bool) {
	for _, w := range x.windows {
		if slot, ok := w.slotOf(a); ok {
			return slot, true
		}
	}
	return 0, false
}

// slotFor is the slot that holds all of a prefix.
func (x *routeIndex) slotFor(k RouteKey) (slot uint32, ok bool) {
	if k.Network != x.network {
		return 0, false
	}
	slot, ok = x.slotOf(k.Prefix.Addr())
	return slot, ok && k.Prefix.Bits() >= x.key(slot).Prefix.Bits()
}

// key is the route that a slot stands for; the zero Prefix where none does.
func (x *routeIndex) key(slot uint32) RouteKey {
	for _, w := range x.windows {
		if p, ok := w.prefix(slot); ok {
			return RouteKey{Network: x.network, Prefix: p}
		}
	}
	return RouteKey{Network: x.network}
}

// slots counts them.
func (x *routeIndex) slots() (n uint32) {
	for _, w := range x.windows {
		n += w.Count
	}
	return n
}

// get is the host of a slot, HOST_NONE where it is empty.
func (x *routeIndex) get(slot uint32) (uint32, error) {
	var w bpf.DatapathRouteSlot
	if err := x.m.Lookup(&slot, &w); err != nil {
		return 0, fmt.Errorf("read slot %d of map route_index: %w", slot, err)
	}
	return w.Host, nil
}

// set writes a slot under its readers. The kernel does so by memcpy (copy_map_value in
// include/linux/bpf.h), of aligned words in practice, but it does not promise that: a packet at that
// very moment may see a number or an address made of the old one's bytes and the new one's.
func (x *routeIndex) set(slot uint32, to Slot) error {
	w, err := encodeSlot(to)
	if err == nil {
		err = x.m.Update(&slot, &w, ebpf.UpdateAny)
	}
	if err != nil {
		return fmt.Errorf("put %s in map route_index: %w", x.key(slot), err)
	}
	return nil
}

func (x *routeIndex) clear(slot uint32) error { return x.set(slot, Slot{}) }

// entries are the filled slots, in order.
func (x *routeIndex) entries() ([]Entry[RouteKey, Slot], error) {
	var entries []Entry[RouteKey, Slot]
	err := scan(x.m, func(slot uint32, w bpf.DatapathRouteSlot) {
		if key := x.key(slot); key.Prefix.IsValid() && w.Host != uint32(bpf.DatapathHostIndexHOST_NONE) {
			entries = append(entries, Entry[RouteKey, Slot]{Key: key, Value: decodeSlot(w)})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list route_index: %w", err)
	}
	return entries, nil
}
