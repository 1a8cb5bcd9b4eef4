// SPDX-License-Identifier: Apache-2.0

package store

import (
	"iter"
	"net/netip"
	"slices"
)

// prefixTree is a binary tree, a bit of the address a level, that finds what
// overlaps a prefix: what hangs on the way down to it and below it. All
// prefixes in a tree are of one address family.
type prefixTree[T comparable] struct {
	child [2]*prefixTree[T]
	items []T
}

func (t *prefixTree[T]) insert(p netip.Prefix, item T) {
	addr := p.Addr().AsSlice()
	for i := range p.Bits() {
		b := bit(addr, i)
		if t.child[b] == nil {
			t.child[b] = new(prefixTree[T])
		}
		t = t.child[b]
	}
	t.items = append(t.items, item)
}

// remove takes away an item that was inserted at p, and the branch that led to
// nothing else.
func (t *prefixTree[T]) remove(p netip.Prefix, item T) {
	t.prune(p.Addr().AsSlice(), 0, p.Bits(), item)
}

func (t *prefixTree[T]) prune(addr []byte, depth, bits int, item T) (empty bool) {
	if depth < bits {
		b := bit(addr, depth)
		if t.child[b].prune(addr, depth+1, bits, item) {
			t.child[b] = nil
		}
	} else {
		i := slices.Index(t.items, item)
		t.items = slices.Delete(t.items, i, i+1)
	}
	return len(t.items) == 0 && t.child == [2]*prefixTree[T]{}
}

// overlapping yields each item whose prefix overlaps p.
func (t *prefixTree[T]) overlapping(p netip.Prefix) iter.Seq[T] {
	return func(yield func(T) bool) {
		addr, t := p.Addr().AsSlice(), t
		for i := range p.Bits() {
			for _, item := range t.items {
				if !yield(item) {
					return
				}
			}
			if t = t.child[bit(addr, i)]; t == nil {
				return
			}
		}
		t.walk(yield)
	}
}

// overlaps reports whether any item's prefix overlaps p.
func (t *prefixTree[T]) overlaps(p netip.Prefix) bool {
	for range t.overlapping(p) {
		return true
	}
	return false
}

// walk yields all items and reports whether to go on.
func (t *prefixTree[T]) walk(yield func(T) bool) bool {
	for _, item := range t.items {
		if !yield(item) {
			return false
		}
	}
	for _, c := range t.child {
		if c != nil && !c.walk(yield) {
			return false
		}
	}
	return true
}

// bit returns bit i of addr, counted from the most significant.
func bit(addr []byte, i int) int { return int(addr[i/8]>>(7-i%8)) & 1 }
