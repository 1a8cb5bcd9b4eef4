// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Update is a change of the leases in etcd.
type Update struct {
	Full     bool  // Put and Bad are all there is; what is in neither is gone
	Revision int64 // of etcd, up to which the leases are known

	Put     []Lease          // new or changed, sorted by key
	Deleted []string         // keys, sorted
	Bad     map[string]error // by key: leases that are there and must not be used, one line each that says why
}

// table holds all leases and notes which keys an Update has to tell of.
type table struct {
	records map[string]*record  // by Lease.Key
	v4, v6  prefixTree[*record] // the records that are leases
	touched map[string]bool
}

// record is what etcd holds under one key.
type record struct {
	lease Lease
	bad   error // why it is no lease; then only lease.Key is set
}

func newTable() *table {
	return &table{records: map[string]*record{}, touched: map[string]bool{}}
}

// put takes over a key and its value as they are in etcd; key is without
// PREFIX/subnets/.
func (t *table) put(key string, kv *mvccpb.KeyValue) {
	r := &record{}
	r.lease, r.bad = ParseLease(key, kv.Value)
	r.lease.Key, r.lease.CreateRevision, r.lease.ModRevision = key, kv.CreateRevision, kv.ModRevision
	if old := t.records[key]; old != nil && old.bad == nil && r.bad == nil {
		renewed := old.lease
		renewed.ModRevision = kv.ModRevision
		if renewed == r.lease {
			old.lease = renewed
			return
		}
	}
	t.remove(key)
	t.records[key] = r
	t.touched[key] = true
	if r.bad != nil {
		return
	}
	for tree, p := range t.subnets(r) {
		t.touchOverlapping(tree, p)
		tree.insert(p, r)
	}
}

// remove takes over that a key is gone.
func (t *table) remove(key string) {
	r := t.records[key]
	if r == nil {
		return
	}
	delete(t.records, key)
	t.touched[key] = true
	if r.bad != nil {
		return
	}
	for tree, p := range t.subnets(r) {
		tree.remove(p, r)
		t.touchOverlapping(tree, p)
	}
}

// subnets yields the subnets of a lease, each with the tree it belongs in.
func (t *table) subnets(r *record) iter.Seq2[*prefixTree[*record], netip.Prefix] {
	return func(yield func(*prefixTree[*record], netip.Prefix) bool) {
		if r.lease.Subnet.IsValid() && !yield(&t.v4, r.lease.Subnet) {
			return
		}
		if r.lease.Subnet6.IsValid() {
			yield(&t.v6, r.lease.Subnet6)
		}
	}
}

func (t *table) touchOverlapping(tree *prefixTree[*record], p netip.Prefix) {
	for o := range tree.overlapping(p) {
		t.touched[o.lease.Key] = true
	}
}

// flush returns what changed since the last flush.
func (t *table) flush(revision int64) Update {
	u := Update{Revision: revision, Bad: map[string]error{}}
	for key := range t.touched {
		r := t.records[key]
		if r == nil {
			u.Deleted = append(u.Deleted, key)
		} else if err := t.verdict(r); err != nil {
			u.Bad[key] = err
		} else {
			u.Put = append(u.Put, r.lease)
		}
	}
	t.touched = map[string]bool{} // clear would take as long as for the largest update ever
	slices.Sort(u.Deleted)
	slices.SortFunc(u.Put, func(a, b Lease) int { return strings.Compare(a.Key, b.Key) })
	return u
}

// verdict says why r must not be used. Of two leases that overlap, the younger
// is at fault: all nodes see the same order, and the older is already in use.
func (t *table) verdict(r *record) error {
	if r.bad != nil {
		return r.bad
	}
	var oldest *record
	for tree, p := range t.subnets(r) {
		for o := range tree.overlapping(p) {
			if o.olderThan(r) && (oldest == nil || o.olderThan(oldest)) {
				oldest = o
			}
		}
	}
	if oldest == nil {
		return nil
	}
	return fmt.Errorf("subnet overlaps that of the older lease %s: delete one of the two keys", oldest.lease.Key)
}

// olderThan orders leases by creation; those of one transaction by key.
func (r *record) olderThan(o *record) bool {
	if r.lease.CreateRevision != o.lease.CreateRevision {
		return r.lease.CreateRevision < o.lease.CreateRevision
	}
	return r.lease.Key < o.lease.Key
}
