// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// batchSize is the entries asked of the kernel at a time. More than any bucket
// of a hash holds: it gives whole buckets only.
const batchSize = 4096

// scan visits every entry, in the map's order. An entry may be seen twice, or
// missed, if the map is written to meanwhile.
func scan[K, V any](m *ebpf.Map, visit func(K, V)) error {
	err := scanBatches(m, visit)
	if errors.Is(err, ebpf.ErrNotSupported) { // nothing was visited: the kernel has no batches for such a map
		err = scanSingly(m, visit)
	}
	if err != nil {
		return fmt.Errorf("read map: %w", err)
	}
	return nil
}

func scanBatches[K, V any](m *ebpf.Map, visit func(K, V)) error {
	size := min(batchSize, int(m.MaxEntries()))
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range n {
			visit(keys[i], values[i])
		}
		if last {
			return nil
		}
	}
}

func scanSingly[K, V any](m *ebpf.Map, visit func(K, V)) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		visit(key, value)
	}
	return entries.Err()
}
