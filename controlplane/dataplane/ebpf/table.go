// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"maps"
	"slices"
)

// table is a map of the datapath and what is known to be in it.
type table[K, V comparable] struct {
	have    map[K]V
	odd     map[K]bool // whose entry, though of that value, is not what set would write
	compare func(a, b K) int
	set     func(K, V) error
	del     func(K) error
}

// put writes what is missing, differs or is odd. An entry that cannot be written does
// not hold up the others, and keeps what it had. In order of keys, so that
// where there is not room for all it is always the same that find it.
func (t *table[K, V]) put(want map[K]V) error {
	var keys []K
	for k, v := range want {
		if old, ok := t.have[k]; !ok || old != v || t.odd[k] {
			keys = append(keys, k)
		}
	}
	return t.each(keys, func(k K) error {
		err := t.set(k, want[k])
		if err == nil {
			t.have[k] = want[k]
			delete(t.odd, k)
		}
		return err
	})
}

// all is the keys of everything there is.
func (t *table[K, V]) all() []K { return slices.Collect(maps.Keys(t.have)) }

// prune removes, of some keys, what is not wanted.
func (t *table[K, V]) prune(some []K, want map[K]V) error {
	var keys []K
	for _, k := range some {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	return t.each(keys, func(k K) error {
		err := t.del(k)
		if err == nil {
			delete(t.have, k)
			delete(t.odd, k)
		}
		return err
	})
}

func (t *table[K, V]) each(keys []K, write func(K) error) error {
	slices.SortFunc(keys, t.compare)
	var failed failures
	for _, k := range keys {
		failed.add(write(k))
	}
	return failed.err()
}

// failures makes one line of what befell many entries for, mostly, one reason.
type failures struct {
	first error
	count int
}

// add takes note of a failure; nil is none.
func (f *failures) add(err error) {
	if err == nil {
		return
	}
	if f.count == 0 {
		f.first = err
	}
	f.count++
}

func (f *failures) err() error {
	if f.count > 1 {
		return fmt.Errorf("%w (and %d more)", f.first, f.count-1)
	}
	return f.first
}
