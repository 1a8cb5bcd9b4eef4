// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// Table is one map, with what turns keys and values into its generated wire
// types, WK and WV, and back. Not for concurrent writers.
type Table[K comparable, V any, WK, WV comparable] struct {
	name        string
	m           *ebpf.Map
	encodeKey   func(K) (WK, error)
	encodeValue func(V) (WV, error)
	decodeKey   func(WK) (K, error)
	decodeValue func(WV) (V, error)
	compare     func(a, b K) int
}

func newTable[K comparable, V any, WK, WV comparable](
	name string, m *ebpf.Map,
	encodeKey func(K) (WK, error), encodeValue func(V) (WV, error),
	decodeKey func(WK) (K, error), decodeValue func(WV) (V, error),
	compare func(a, b K) int,
) Table[K, V, WK, WV] {
	return Table[K, V, WK, WV]{name, m, encodeKey, encodeValue, decodeKey, decodeValue, compare}
}

// Entry is what a map holds under one key.
type Entry[K, V any] struct {
	Key   K
	Value V
	Bad   *BadEntry // set where the entry does not decode; Key and Value then say nothing
}

// BadEntry is an entry that does not decode, byte by byte.
type BadEntry struct {
	Reason     error
	Key, Value []byte
}

// Max is the most entries the map takes.
func (t *Table[K, V, WK, WV]) Max() uint32 { return t.m.MaxEntries() }

// Full is the error of a map without room for another entry: see ErrFull.
func (t *Table[K, V, WK, WV]) Full() error { return fullError(t.name, t.m) }

func (t *Table[K, V, WK, WV]) put(key K, value V) error {
	k, err := t.encodeKey(key)
	if err != nil {
		return t.wrap("put", key, err)
	}
	v, err := t.encodeValue(value)
	if err != nil {
		return t.wrap("put", key, err)
	}
	err = t.m.Update(&k, &v, ebpf.UpdateAny)
	if isFull(err) {
		err = t.Full()
	}
	return t.wrap("put", key, err)
}

func (t *Table[K, V, WK, WV]) delete(key K) error {
	k, err := t.encodeKey(key)
	if err != nil {
		return t.wrap("delete", key, err)
	}
	if t.m.Type() == ebpf.Array { // has nothing but values: an empty one is all zeroes
		var empty WV
		err = t.m.Update(&k, &empty, ebpf.UpdateAny)
	} else {
		err = t.m.Delete(&k)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return t.wrap("delete", key, err)
}

func (t *Table[K, V, WK, WV]) wrap(verb string, key K, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %v in map %s: %w", verb, key, t.name, err)
}

// All is every entry that decodes. An array's entries of zeroes are none.
func (t *Table[K, V, WK, WV]) All() (map[K]V, error) {
	all := map[K]V{}
	err := t.scan(func(wk WK, wv WV) {
		if e := t.decode(wk, wv); e.Bad == nil {
			all[e.Key] = e.Value
		}
	})
	return all, err
}

// Entries is every entry, sorted by key, those that do not decode last.
func (t *Table[K, V, WK, WV]) Entries() ([]Entry[K, V], error) {
	var entries []Entry[K, V]
	err := t.scan(func(wk WK, wv WV) { entries = append(entries, t.decode(wk, wv)) })
	return sortEntries(entries, t.compare), err
}

// Usage is how much of a map is in use: entries, or bytes of a ring buffer.
type Usage struct {
	Used int
	Max  uint32
}

// Usage counts the entries.
func (t *Table[K, V, WK, WV]) Usage() (Usage, error) {
	u := Usage{Max: t.Max()}
	err := t.scan(func(WK, WV) { u.Used++ })
	return u, err
}

func (t *Table[K, V, WK, WV]) scan(visit func(WK, WV)) error {
	array := t.m.Type() == ebpf.Array
	var empty WV
	err := scan(t.m, func(wk WK, wv WV) {
		if !array || wv != empty {
			visit(wk, wv)
		}
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", t.name, err)
	}
	return nil
}

func (t *Table[K, V, WK, WV]) decode(wk WK, wv WV) Entry[K, V] {
	key, keyErr := t.decodeKey(wk)
	value, valueErr := t.decodeValue(wv)
	if err := errors.Join(keyErr, valueErr); err != nil {
		return Entry[K, V]{Bad: &BadEntry{Reason: err, Key: wireBytes(wk), Value: wireBytes(wv)}}
	}
	return Entry[K, V]{Key: key, Value: value}
}

// wireBytes is a wire value as it stands in the map.
func wireBytes(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(fmt.Sprintf("wire type %T is not of fixed size: %v", v, err)) // none is: bpf2go makes them
	}
	return b
}

// sortEntries also drops what a scan saw twice.
func sortEntries[K, V any](entries []Entry[K, V], compare func(a, b K) int) []Entry[K, V] {
	cmp := func(a, b Entry[K, V]) int {
		switch {
		case a.Bad != nil && b.Bad != nil:
			return slices.Compare(a.Bad.Key, b.Bad.Key)
		case a.Bad != nil:
			return 1
		case b.Bad != nil:
			return -1
		}
		return compare(a.Key, b.Key)
	}
	slices.SortFunc(entries, cmp)
	return slices.CompactFunc(entries, func(a, b Entry[K, V]) bool { return cmp(a, b) == 0 })
}
