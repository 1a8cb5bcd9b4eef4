// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	// errListAgain says that the revisions to be watched are not to be had.
	errListAgain = errors.New("leases must be listed again")
	// errWatchAgain says that the connection was lost in between.
	errWatchAgain = errors.New("leases must be watched again")
)

// Watch calls f with all leases, then with each change, the changes of one
// revision together. While etcd is away nothing is delivered, and once it is
// back what changed; where etcd no longer knows what changed, f is called with
// all leases again. A renewal that changes nothing is no change.
//
// It returns when ctx ends, when f returns an error, with just that, or when
// etcd refuses.
func (s *Store) Watch(ctx context.Context, f func(Update) error) error {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		began := time.Now()
		l, err := s.listing(ctx)
		if err == nil {
			t, at := newTable(l.put), l.at
			if err = f(l.update()); err != nil {
				return err
			}
			l = listing{} // which takes as much memory again
			err = s.follow(ctx, t, at, f)
		}
		var ours callbackError
		switch {
		case errors.As(err, &ours):
			return ours.error
		case !errors.Is(err, errListAgain):
			return fmt.Errorf("watch %s in etcd: %w", s.subnets, err)
		}
		if time.Since(began) > retryMax {
			wait = retryMin
		}
		select { // for where two clusters answer by turns it would go on and on
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
	}
}

// follow keeps t up to date from at on.
func (s *Store) follow(ctx context.Context, t *table, at cursor, f func(Update) error) error {
	return s.retry(ctx, func(ctx context.Context, ok func()) error {
		for {
			if err := s.stream(ctx, t, &at, ok, f); !errors.Is(err, errWatchAgain) {
				return err
			}
		}
	})
}

// stream keeps t up to date by one watch, and at at what t holds.
func (s *Store) stream(ctx context.Context, t *table, at *cursor, ok func(), f func(Update) error) error {
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	back := s.ready.wait()
	w := s.cli.Watch(wctx, s.subnets, clientv3.WithPrefix(), clientv3.WithRev(at.revision+1),
		clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	for {
		select {
		case resp, open := <-w:
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case !open:
				return errWatchClosed
			case resp.CompactRevision != 0:
				return errListAgain
			case resp.Err() != nil:
				return resp.Err()
			case resp.Header.ClusterId != at.cluster:
				return errListAgain
			case resp.Header.Revision < at.revision:
				if err := s.confirm(ctx, *at); err != nil {
					return err
				}
			}
			ok()
			if err := s.deliver(resp, t, at, f); err != nil {
				return err
			}
		case <-back:
			return errWatchAgain // for the first answer to a new watch tells whether it is the same etcd
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// confirm tells an etcd restored from a backup, whose leases must be listed
// again, from a member that lags behind the others, whose watch begins once it
// has come as far: the members have to agree on the answer to a read.
func (s *Store) confirm(ctx context.Context, at cursor) error {
	resp, err := s.cli.Get(ctx, s.config)
	if err == nil && (resp.Header.ClusterId != at.cluster || resp.Header.Revision < at.revision) {
		err = errListAgain
	}
	return err
}

// deliver takes over the changes that resp tells of. When a watch catches up,
// etcd answers in parts whose header is ahead of the events they carry; a
// revision is never split.
func (s *Store) deliver(resp clientv3.WatchResponse, t *table, at *cursor, f func(Update) error) error {
	if resp.IsProgressNotify() {
		at.revision = max(at.revision, resp.Header.Revision) // a member that lags is behind
	}
	for _, e := range resp.Events {
		key := strings.TrimPrefix(string(e.Kv.Key), s.subnets)
		if e.Type == clientv3.EventTypeDelete {
			t.remove(key)
		} else {
			t.put(key, e.Kv)
		}
		at.revision = e.Kv.ModRevision
	}
	u := t.flush(at.revision)
	if len(u.Put)+len(u.Deleted)+len(u.Bad) == 0 {
		return nil
	}
	if err := f(u); err != nil {
		return callbackError{err}
	}
	return nil
}
