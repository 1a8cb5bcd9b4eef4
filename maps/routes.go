// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
)

// Routes is the trie and the index in front of it as one table.
//
// A packet's destination is looked for in its slot of the index and, where
// that is empty, in the trie. So a route of a slot's length lives in its slot
// unless the trie holds a longer prefix inside it; then the slot is empty and
// the trie holds them all. A packet may read its slot before a change and the
// trie after it, hence the order of writes:
//
//   - A route leaves its slot after it, and the longer one, are in the trie.
//   - A route does not go back to its slot when the longer one is deleted. It
//     would have to leave the trie, where it is still being looked for.
//   - After a slot was filled, nothing is deleted from the trie before the
//     packets that saw the slot empty are through.
//
// Safe for concurrent use by one process; there must be no other writer.
type Routes struct {
	trie  Table[RouteKey, uint32, bpf.DatapathRouteKey, bpf.DatapathHostIndex]
	index routeIndex

	mu sync.Mutex // held by writers
	// nested holds the trie's prefixes that lie in a slot, by slot: while there are any, the slot is empty.
	nested map[uint32]map[netip.Prefix]bool
	filled bool // a slot was filled since WaitForReaders
}

func newRoutes(trie, index *ebpf.Map, s *Settings) *Routes {
	return &Routes{
		trie: newTable("routes", trie,
			encodeRouteKey, encodeHostIndex, decodeRouteKey, decodeHostIndex, compareRouteKeys),
		index: newRouteIndex(index, s),
	}
}

// Put adds a route or changes its host. Until it returns a lookup gives the
// old answer or the new one.
func (r *Routes) Put(route Route) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := RouteKey{route.Network, route.Prefix}
	slot, ok, err := r.prepare(key)
	if err != nil {
		return err
	}
	if _, err := encodeHostIndex(route.Host); err != nil {
		return r.trie.wrap("put", key, err)
	}
	switch {
	case !ok:
		return r.trie.put(key, route.Host)
	case len(r.nested[slot]) > 0:
		return r.putNested(slot, key, route.Host)
	case key == r.index.key(slot):
		r.filled = true
		return r.index.set(slot, Slot{route.Host, route.Shortcut})
	}
	return r.putInside(slot, key, route.Host)
}

// putInside puts the first prefix that is longer than its slot's.
func (r *Routes) putInside(slot uint32, key RouteKey, host uint32) error {
	old, err := r.index.get(slot)
	if err != nil {
		return err
	}
	if old == uint32(bpf.DatapathHostIndexHOST_NONE) {
		return r.putNested(slot, key, host)
	}
	whole := r.index.key(slot)
	if err := r.trie.put(whole, old); err != nil {
		return err
	}
	if err := r.trie.put(key, host); err != nil {
		return errors.Join(err, r.trie.delete(whole))
	}
	if err := r.index.clear(slot); err != nil {
		return errors.Join(err, r.trie.delete(key), r.trie.delete(whole))
	}
	r.nest(slot, whole.Prefix)
	r.nest(slot, key.Prefix)
	return nil
}

func (r *Routes) putNested(slot uint32, key RouteKey, host uint32) error {
	if err := r.trie.put(key, host); err != nil {
		return err
	}
	r.nest(slot, key.Prefix)
	return nil
}

func (r *Routes) nest(slot uint32, p netip.Prefix) {
	if r.nested[slot] == nil {
		r.nested[slot] = map[netip.Prefix]bool{}
	}
	r.nested[slot][p] = true
}

// Delete takes a route away. One that is not there is no error.
func (r *Routes) Delete(network uint32, prefix netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := RouteKey{network, prefix}
	slot, ok, err := r.prepare(key)
	if err != nil {
		return err
	}
	if ok && !r.nested[slot][prefix] {
		if key != r.index.key(slot) {
			return nil
		}
		return r.index.clear(slot)
	}
	if r.filled {
		WaitForReaders()
		r.filled = false
	}
	if err := r.trie.delete(key); err != nil {
		return err
	}
	delete(r.nested[slot], prefix)
	if len(r.nested[slot]) == 0 {
		delete(r.nested, slot)
	}
	return nil
}

// prepare checks a key and finds its slot, if it lies in one.
func (r *Routes) prepare(key RouteKey) (slot uint32, ok bool, err error) {
	if _, err := encodeRouteKey(key); err != nil {
		return 0, false, r.trie.wrap("find", key, err)
	}
	if r.nested == nil {
		if err := r.load(); err != nil {
			return 0, false, err
		}
	}
	slot, ok = r.index.slotFor(key)
	return slot, ok, nil
}

// load learns what is nested, once, and completes what an earlier writer was
// killed in the middle of.
func (r *Routes) load() error {
	all, err := r.trie.All()
	if err != nil {
		return err
	}
	r.nested = map[uint32]map[netip.Prefix]bool{}
	for key := range all {
		if slot, ok := r.index.slotFor(key); ok {
			r.nest(slot, key.Prefix)
		}
	}
	for slot := range r.nested {
		if err := r.repair(slot, all); err != nil {
			r.nested = nil
			return err
		}
	}
	return nil
}

// repair empties a slot that has prefixes nested in it or, where the only one
// is a copy of its own route, takes that away.
func (r *Routes) repair(slot uint32, inTrie map[RouteKey]uint32) error {
	host, err := r.index.get(slot)
	if err != nil || host == uint32(bpf.DatapathHostIndexHOST_NONE) {
		return err
	}
	whole := r.index.key(slot)
	if nested := r.nested[slot]; len(nested) == 1 && nested[whole.Prefix] {
		delete(r.nested, slot)
		return r.trie.delete(whole)
	}
	if inTrie[whole] != host {
		if err := r.trie.put(whole, host); err != nil {
			return err
		}
	}
	r.nest(slot, whole.Prefix)
	return r.index.clear(slot)
}

// WaitForReaders returns when every program that was running has ended, which
// takes some 10 ms: what they have read of the maps before, no packet goes by
// any more. Programs run under the kernel's RCU, and the system call waits for
// all its readers (kernel/sched/membarrier.c). Kernels with nohz_full CPUs
// refuse it: there a packet just on its way may find its route or host gone.
func WaitForReaders() {
	const membarrierCmdGlobal = 1 // include/uapi/linux/membarrier.h
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierCmdGlobal, 0, 0)
}

// Lookup is the host that an address of the programs' network belongs to, as
// route_lookup in bpf/include/route.h finds it; 0, HOST_NONE, where no route
// does.
func (r *Routes) Lookup(a netip.Addr) (uint32, error) {
	if slot, ok := r.index.slotOf(a); ok {
		if host, err := r.index.get(slot); err != nil || host != uint32(bpf.DatapathHostIndexHOST_NONE) {
			return host, err
		}
	}
	key, err := encodeRouteKey(RouteKey{r.index.network, netip.PrefixFrom(a, a.BitLen())})
	if err != nil {
		return 0, fmt.Errorf("look up %s: %w", a, err)
	}
	var host bpf.DatapathHostIndex
	err = r.trie.m.Lookup(&key, &host)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("look up %s in map routes: %w", a, err)
	}
	return uint32(host), nil
}

// All is every route that decodes, sorted by network, address and length.
func (r *Routes) All() ([]Route, error) {
	entries, err := r.Entries()
	routes := make([]Route, 0, len(entries))
	for _, e := range entries {
		if e.Bad == nil {
			routes = append(routes, Route{e.Key.Network, e.Key.Prefix, e.Value.Host, e.Value.Shortcut})
		}
	}
	return routes, err
}

// Entries is every route, sorted, those that do not decode last.
func (r *Routes) Entries() ([]Entry[RouteKey, Slot], error) {
	// The index first: a route that moves meanwhile moves from there to the trie.
	entries, err := r.index.entries()
	if err != nil {
		return nil, err
	}
	inIndex := make(map[RouteKey]bool, len(entries))
	for _, e := range entries {
		inIndex[e.Key] = true
	}
	err = r.trie.scan(func(wk bpf.DatapathRouteKey, wv bpf.DatapathHostIndex) {
		if e := r.trie.decode(wk, wv); !inIndex[e.Key] {
			entries = append(entries, Entry[RouteKey, Slot]{e.Key, Slot{Host: e.Value}, e.Bad})
		}
	})
	return sortEntries(entries, compareRouteKeys), err
}

// IndexEntries is those of Entries that the index answers for.
func (r *Routes) IndexEntries() ([]Entry[RouteKey, Slot], error) { return r.index.entries() }

// Usage counts the routes in the trie.
func (r *Routes) Usage() (Usage, error) { return r.trie.Usage() }

// IndexUsage counts the filled slots of the index.
func (r *Routes) IndexUsage() (Usage, error) {
	entries, err := r.index.entries()
	return Usage{Used: len(entries), Max: r.index.slots()}, err
}
