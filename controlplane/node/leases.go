// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// leases are those in etcd. What has changed is merged in when they are asked
// for: all that has come until then costs one walk over them.
type leases struct {
	sorted []topology.Lease // by Key; only appended to, for it is handed out
	news   map[string]change
}

type change struct {
	lease topology.Lease
	gone  bool
}

func (l *leases) clear() { *l = leases{} }

// put adds or replaces a lease. A listing comes in order, and is not kept twice.
func (l *leases) put(lease topology.Lease) {
	if n := len(l.sorted); len(l.news) == 0 && (n == 0 || l.sorted[n-1].Key < lease.Key) {
		l.sorted = append(l.sorted, lease)
		return
	}
	l.note(lease.Key, change{lease: lease})
}

func (l *leases) remove(key string) { l.note(key, change{gone: true}) }

func (l *leases) note(key string, c change) {
	if l.news == nil {
		l.news = map[string]change{}
	}
	l.news[key] = c
}

// all is every lease, sorted by key.
func (l *leases) all() []topology.Lease {
	if len(l.news) == 0 {
		return l.sorted
	}
	merged := make([]topology.Lease, 0, len(l.sorted)+len(l.news))
	rest := l.sorted
	for _, key := range slices.Sorted(maps.Keys(l.news)) {
		at, found := search(rest, key)
		merged = append(merged, rest[:at]...)
		if rest = rest[at:]; found {
			rest = rest[1:]
		}
		if c := l.news[key]; !c.gone {
			merged = append(merged, c.lease)
		}
	}
	*l = leases{sorted: append(merged, rest...)}
	return l.sorted
}

func (l *leases) has(key string) bool {
	_, found := search(l.all(), key)
	return found
}

func search(sorted []topology.Lease, key string) (at int, found bool) {
	return slices.BinarySearchFunc(sorted, key, func(l topology.Lease, key string) int { return strings.Compare(l.Key, key) })
}
