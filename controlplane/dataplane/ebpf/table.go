// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
)

// table is a map of the datapath and what is known to be in it.
type table[K, V comparable] struct {
	have map[K]V
	set  func(K, V) error
	del  func(K) error
}

// put writes what is missing or differs. An entry that cannot be written does
// not hold up the others.
func (t *table[K, V]) put(want map[K]V) error {
	var errs error
	for k, v := range want {
		if old, ok := t.have[k]; ok && old == v {
			continue
		}
		if err := t.set(k, v); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		t.have[k] = v
	}
	return errs
}

// prune removes what is not wanted.
func (t *table[K, V]) prune(want map[K]V) error {
	var errs error
	for k := range t.have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := t.del(k); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		delete(t.have, k)
	}
	return errs
}
