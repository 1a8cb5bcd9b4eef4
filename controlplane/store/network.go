// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Config reads the network's configuration. Its error matches ErrNoConfig
// where there is none and ErrBadConfig where it cannot be used.
func (s *Store) Config(ctx context.Context) (Config, error) {
	resp, err := s.get(ctx, s.config)
	if err != nil {
		return Config{}, fmt.Errorf("read %s from etcd: %w", s.config, err)
	}
	if len(resp.Kvs) == 0 {
		return Config{}, fmt.Errorf(`%w in etcd: write one by "etcdctl put %s '%s'"`, ErrNoConfig, s.config,
			`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	}
	c, err := ParseConfig(resp.Kvs[0].Value)
	if err != nil {
		return Config{}, fmt.Errorf("read %s from etcd: %w", s.config, err)
	}
	return c, nil
}

// CreateConfig writes the network's configuration if there is none, and
// reports whether it did. A configuration that ParseConfig refuses is not
// written.
func (s *Store) CreateConfig(ctx context.Context, json []byte) (created bool, err error) {
	if _, err = ParseConfig(json); err != nil {
		return false, err
	}
	err = s.retry(ctx, func(ctx context.Context, _ func()) error {
		resp, failed := s.cli.Txn(ctx).
			If(clientv3.Compare(clientv3.Version(s.config), "=", 0)).
			Then(clientv3.OpPut(s.config, string(json))).
			Commit()
		if failed == nil {
			created = resp.Succeeded
		}
		return failed
	})
	if err != nil {
		return false, fmt.Errorf("write %s to etcd: %w", s.config, err)
	}
	return created, nil
}

// WatchConfig calls f with the value of the config key as it is now and again
// at each change, with nil where there is none. It returns when ctx ends or
// etcd refuses.
func (s *Store) WatchConfig(ctx context.Context, f func([]byte)) error {
	last := int64(-1) // ModRevision of what f was called with; a missing key has 0
	err := s.retry(ctx, func(ctx context.Context, ok func()) error {
		for {
			resp, err := s.cli.Get(ctx, s.config)
			if err != nil {
				return err
			}
			ok()
			var value []byte
			var mod int64
			if len(resp.Kvs) != 0 {
				value, mod = resp.Kvs[0].Value, resp.Kvs[0].ModRevision
			}
			if mod != last {
				f(value)
				last = mod
			}
			if err = s.changed(ctx, s.config, resp.Header.Revision); err != nil {
				return err
			}
		}
	})
	return fmt.Errorf("watch %s in etcd: %w", s.config, err)
}

// get reads one key.
func (s *Store) get(ctx context.Context, key string) (resp *clientv3.GetResponse, err error) {
	err = s.retry(ctx, func(ctx context.Context, _ func()) error {
		resp, err = s.cli.Get(ctx, key)
		return err
	})
	return resp, err
}

// changed returns once key may have changed after revision rev: then it is
// time to read it again. That is also so when the connection was lost and is
// back, for the etcd behind it may have been set back, and then the watch
// would wait for a revision far in its future.
func (s *Store) changed(ctx context.Context, key string, rev int64) error {
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	back := s.ready.wait()
	w := s.cli.Watch(wctx, key, clientv3.WithRev(rev+1))
	select {
	case resp, open := <-w:
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !open:
			return errWatchClosed
		case resp.CompactRevision != 0:
			return nil
		}
		return resp.Err()
	case <-back:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
