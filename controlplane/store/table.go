// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
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
	Bad     map[string]error // by key: what is there but no lease, and one line that says why
}

// table holds the leases that etcd holds and gathers changes for an Update.
type table struct {
	leases map[string]Lease // by key
	news   map[string]news  // by key, since the last flush
}

// news is what became of a key: a lease, no lease, or nothing.
type news struct {
	lease Lease
	bad   error
	gone  bool
}

func newTable(leases []Lease) *table {
	t := &table{leases: make(map[string]Lease, len(leases)), news: map[string]news{}}
	for _, l := range leases {
		t.leases[l.Key] = l
	}
	return t
}

// put takes over a key and its value as they are in etcd; key is without
// PREFIX/subnets/. A renewal is no news, for it changes the revision alone:
// else each of many nodes would have all others look at all leases again.
func (t *table) put(key string, kv *mvccpb.KeyValue) {
	l, err := parseKeyValue(key, kv)
	if errors.Is(err, ErrPending) { // a key without a node
		t.remove(key)
		return
	}
	if err != nil {
		delete(t.leases, key)
		t.news[key] = news{bad: err}
		return
	}
	old := t.leases[key]
	old.ModRevision = l.ModRevision
	t.leases[key] = l
	if old != l {
		t.news[key] = news{lease: l}
	}
}

// parseKeyValue is ParseLease with the revisions.
func parseKeyValue(key string, kv *mvccpb.KeyValue) (Lease, error) {
	l, err := ParseLease(key, kv.Value)
	l.CreateRevision, l.ModRevision = kv.CreateRevision, kv.ModRevision
	return l, err
}

// remove takes over that a key is gone.
func (t *table) remove(key string) {
	delete(t.leases, key)
	t.news[key] = news{gone: true}
}

// flush returns what changed since the last flush.
func (t *table) flush(revision int64) Update {
	u := Update{Revision: revision, Bad: map[string]error{}}
	for key, n := range t.news {
		switch {
		case n.gone:
			u.Deleted = append(u.Deleted, key)
		case n.bad != nil:
			u.Bad[key] = n.bad
		default:
			u.Put = append(u.Put, n.lease)
		}
	}
	t.news = map[string]news{} // to clear it would take as long as for the largest update ever
	slices.Sort(u.Deleted)
	slices.SortFunc(u.Put, func(a, b Lease) int { return strings.Compare(a.Key, b.Key) })
	return u
}
