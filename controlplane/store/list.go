// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// pageSize is how many leases are listed at a time: some 1 MB. etcd counts for
// each page how many are behind it.
const pageSize = 5000

// cursor is how far a watch has come.
type cursor struct {
	cluster  uint64 // etcd's name for itself
	revision int64  // all changes up to here are known
}

// listing is all leases as they are at one revision.
type listing struct {
	at  cursor
	put []Lease // sorted by key
	bad map[string]error
}

// take adds what a key says.
func (l *listing) take(lease Lease, key string, bad error) {
	switch {
	case errors.Is(bad, ErrPending): // a key without a node
	case bad != nil:
		l.bad[key] = bad
	default:
		l.put = append(l.put, lease)
	}
}

// set has the listing hold a lease that was written since.
func (l *listing) set(lease Lease) {
	l.drop(lease.Key)
	at, _ := l.find(lease.Key)
	l.put = slices.Insert(l.put, at, lease)
}

// drop has the listing hold nothing of a key.
func (l *listing) drop(key string) {
	delete(l.bad, key)
	if at, found := l.find(key); found {
		l.put = slices.Delete(l.put, at, at+1)
	}
}

func (l *listing) find(key string) (at int, found bool) {
	return slices.BinarySearchFunc(l.put, key, func(l Lease, key string) int { return strings.Compare(l.Key, key) })
}

func (l *listing) update() Update {
	return Update{Full: true, Revision: l.at.revision, Put: l.put, Bad: l.bad}
}

// listing is what Acquire has read, once, else what etcd says now.
func (s *Store) listing(ctx context.Context) (l listing, err error) {
	s.mu.Lock()
	acquired := s.acquired
	s.acquired = nil
	s.mu.Unlock()
	if acquired != nil {
		return *acquired, nil
	}
	err = s.retry(ctx, func(ctx context.Context, _ func()) error {
		l = listing{bad: map[string]error{}}
		l.at, err = s.list(ctx, func(key string, kv *mvccpb.KeyValue) {
			lease, bad := parseKeyValue(key, kv)
			l.take(lease, key, bad)
		})
		return err
	})
	return l, err
}

// list calls f for each lease, in order of keys, by pages of one revision: one
// is fetched while f has the one before. It does not retry.
func (s *Store) list(ctx context.Context, f func(key string, kv *mvccpb.KeyValue)) (at cursor, err error) {
	g, ctx := errgroup.WithContext(ctx)
	pages := make(chan *clientv3.GetResponse, 1)
	g.Go(func() error {
		defer close(pages)
		return s.fetch(ctx, pages)
	})
	for page := range pages {
		if at.revision == 0 {
			at = cursor{page.Header.ClusterId, page.Header.Revision}
		}
		for _, kv := range page.Kvs {
			f(string(kv.Key[len(s.subnets):]), kv)
		}
	}
	return at, g.Wait()
}

// fetch reads all leases as they are at the revision of the first page.
func (s *Store) fetch(ctx context.Context, pages chan<- *clientv3.GetResponse) error {
	var revision int64 // 0: etcd's last
	end := clientv3.GetPrefixRangeEnd(s.subnets)
	for from := s.subnets; ; {
		page, err := s.cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		select {
		case pages <- page:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}
