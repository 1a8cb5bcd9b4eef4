// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestLeases holds them equal to a map, whatever is put and removed, and what
// was handed out unchanged.
func TestLeases(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var l leases
	want := map[string]topology.Lease{}
	for step := range 2000 {
		lease := topology.Lease{Key: fmt.Sprint(random.IntN(40)), Modified: int64(step)}
		switch random.IntN(20) {
		case 0:
			l.clear()
			clear(want)
		case 1, 2, 3, 4, 5, 6:
			l.remove(lease.Key)
			delete(want, lease.Key)
		default:
			l.put(lease)
			want[lease.Key] = lease
		}
		if random.IntN(3) > 0 {
			continue // more comes before anybody asks
		}
		before := l.sorted
		copied := slices.Clone(before)
		var sorted []topology.Lease
		for _, key := range slices.Sorted(maps.Keys(want)) {
			sorted = append(sorted, want[key])
		}
		if got := l.all(); !slices.Equal(got, sorted) {
			t.Fatalf("step %d: %v, want %v", step, got, sorted)
		}
		if !slices.Equal(before, copied) {
			t.Fatalf("step %d: what was handed out was written to", step)
		}
		if _, wanted := want[lease.Key]; l.has(lease.Key) != wanted {
			t.Fatalf("step %d: has(%s) is not %t", step, lease.Key, wanted)
		}
	}
}
