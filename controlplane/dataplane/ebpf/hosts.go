// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	stdmaps "maps"
	"slices"

	"github.com/bpfnet/bpfnet/maps"
)

// hostTable hands out the places of the hosts map. What nothing points to any more
// rests: a packet on its way may still go by it, so it stays as it is until no such
// packet can be left, and only then is the place cleared, and free.
type hostTable struct {
	m       *maps.Hosts
	entries map[uint32]maps.Host
	indexes map[maps.Host]uint32
	resting map[uint32]bool
	free    []uint32 // places, the longest unused first
}

// newHostTable hands out the places from first on. Those that are named, by who reads
// the map, are not free, even where nothing is in them.
func newHostTable(m *maps.Hosts, entries map[uint32]maps.Host, first uint32, named map[uint32]bool) *hostTable {
	t := &hostTable{m: m, entries: entries, indexes: make(map[maps.Host]uint32, len(entries)), resting: map[uint32]bool{}}
	for index, h := range entries {
		if index >= first {
			t.indexes[h] = index
		}
	}
	for index := first; index < m.Max(); index++ {
		if _, taken := entries[index]; !taken && !named[index] {
			t.free = append(t.free, index)
		}
	}
	return t
}

// place is where an entry is or, if it is nowhere, would be written.
func (t *hostTable) place(h maps.Host) (uint32, error) {
	if index, ok := t.indexes[h]; ok {
		return index, nil
	}
	if len(t.free) == 0 {
		return 0, fmt.Errorf("add host %s: %w", h.Node, t.m.Full())
	}
	return t.free[0], nil
}

// index is the place of an entry, which is written if it has none. One that rests is in use again.
func (t *hostTable) index(h maps.Host) (uint32, error) {
	if index, ok := t.indexes[h]; ok {
		delete(t.resting, index)
		return index, nil
	}
	if len(t.free) == 0 && len(t.resting) > 0 {
		maps.WaitForReaders()
		if err := t.clear(); err != nil {
			return 0, err
		}
	}
	index, err := t.place(h)
	if err != nil {
		return 0, err
	}
	if err := t.m.Put(index, h); err != nil {
		return 0, err
	}
	t.free = t.free[1:]
	t.entries[index], t.indexes[h] = h, index
	return index, nil
}

// putSelf writes this node's own entry, which nothing is ever sent by.
func (t *hostTable) putSelf(h maps.Host) error {
	if t.entries[hostSelf] == h {
		return nil
	}
	if err := t.m.Put(hostSelf, h); err != nil {
		return err
	}
	t.entries[hostSelf] = h
	return nil
}

// rest has those of some places rest that nothing points to any more.
func (t *hostTable) rest(some []uint32, used map[uint32]bool) {
	for _, index := range some {
		if _, there := t.entries[index]; there && !used[index] {
			t.resting[index] = true
		}
	}
}

// clear frees the places that rest. No packet on its way may hold one of them, for it would
// go by half an entry, or another's: [maps.WaitForReaders] comes between rest and clear.
func (t *hostTable) clear() error {
	var failed failures
	for _, index := range slices.Sorted(stdmaps.Keys(t.resting)) {
		if err := t.m.Delete(index); err != nil {
			failed.add(err)
			continue
		}
		if h := t.entries[index]; t.indexes[h] == index { // else it was there twice
			delete(t.indexes, h)
		}
		delete(t.entries, index)
		delete(t.resting, index)
		t.free = append(t.free, index)
	}
	return failed.err()
}
