// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// routeIndex is the array in front of the trie: a slot for each prefix of one
// length, side by side from base on, of one network.
type routeIndex struct {
	m       *ebpf.Map
	network uint32
	base    uint32 // first address of slot 0
	shift   uint32 // 32 - length of a slot's prefix
	count   uint32 // slots
}

func newRouteIndex(m *ebpf.Map, s *Settings) routeIndex {
	return routeIndex{m: m, network: s.Network, base: s.IndexBase, shift: s.IndexShift,
		count: min(s.IndexCount, m.MaxEntries())}
}

// bits is the length of a slot's prefix.
func (x *routeIndex) bits() int { return 32 - int(x.shift) }

// slotOf is the slot an IPv4 address falls into, as route_lookup in bpf/include/route.h has it.
func (x *routeIndex) slotOf(a netip.Addr) (slot uint32, ok bool) {
	if !a.Is4() {
		return 0, false
	}
	b := a.As4()
	slot = (binary.BigEndian.Uint32(b[:]) - x.base) >> x.shift
	return slot, slot < x.count
}

// slotFor is the slot that holds all of a prefix.
func (x *routeIndex) slotFor(k RouteKey) (slot uint32, ok bool) {
	if k.Network != x.network || !k.Prefix.Addr().Is4() || k.Prefix.Bits() < x.bits() {
		return 0, false
	}
	return x.slotOf(k.Prefix.Addr())
}

// key is the route that a slot stands for.
func (x *routeIndex) key(slot uint32) RouteKey {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], x.base+slot<<x.shift)
	return RouteKey{Network: x.network, Prefix: netip.PrefixFrom(netip.AddrFrom4(b), x.bits())}
}

// get is the host of a slot, HOST_NONE where it is empty.
func (x *routeIndex) get(slot uint32) (uint32, error) {
	var host bpf.DatapathHostIndex
	if err := x.m.Lookup(&slot, &host); err != nil {
		return 0, fmt.Errorf("read slot %d of map route_index: %w", slot, err)
	}
	return uint32(host), nil
}

func (x *routeIndex) set(slot, host uint32) error {
	if err := x.m.Update(&slot, &host, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("put %s in map route_index: %w", x.key(slot), err)
	}
	return nil
}

func (x *routeIndex) clear(slot uint32) error {
	return x.set(slot, uint32(bpf.DatapathHostIndexHOST_NONE))
}

// entries are the filled slots, in order.
func (x *routeIndex) entries() ([]Entry[RouteKey, uint32], error) {
	var entries []Entry[RouteKey, uint32]
	err := scan(x.m, func(slot uint32, host bpf.DatapathHostIndex) {
		if slot < x.count && host != bpf.DatapathHostIndexHOST_NONE {
			entries = append(entries, Entry[RouteKey, uint32]{Key: x.key(slot), Value: uint32(host)})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list route_index: %w", err)
	}
	return entries, nil
}
