// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"slices"

	"github.com/bpfnet/bpfnet/maps"
)

// hostTable hands out the places of the hosts map.
type hostTable struct {
	m       *maps.Hosts
	entries map[uint32]maps.Host
	indexes map[maps.Host]uint32
	free    []uint32 // places, the longest unused first
}

// newHostTable hands out the places from first on. Those that are named, by who reads
// the map, are not free, even where nothing is in them.
func newHostTable(m *maps.Hosts, entries map[uint32]maps.Host, first uint32, named map[uint32]bool) *hostTable {
	t := &hostTable{m: m, entries: entries, indexes: make(map[maps.Host]uint32, len(entries))}
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

// index is the place of an entry, which is written if it has none.
func (t *hostTable) index(h maps.Host) (uint32, error) {
	index, err := t.place(h)
	if _, ok := t.indexes[h]; ok || err != nil {
		return index, err
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

// prune clears, of some entries, those that nothing points to any more, once no
// packet on its way can hold one of them: it would send by half of it.
func (t *hostTable) prune(some []uint32, used map[uint32]bool) error {
	var stale []uint32
	for _, index := range some {
		if !used[index] {
			stale = append(stale, index)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	maps.WaitForReaders()
	slices.Sort(stale)
	var failed failures
	for _, index := range stale {
		if err := t.m.Delete(index); err != nil {
			failed.add(err)
			continue
		}
		if h := t.entries[index]; t.indexes[h] == index { // else it was there twice
			delete(t.indexes, h)
		}
		delete(t.entries, index)
		t.free = append(t.free, index)
	}
	return failed.err()
}
