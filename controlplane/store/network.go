// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Config reads the network's configuration. Its error matches ErrNoConfig
// where there is none and ErrBadConfig where it cannot be used.
func (s *Store) Config(ctx context.Context) (Config, error) {
	value, revision, err := s.ReadConfig(ctx)
	if err != nil {
		return Config{}, err
	}
	if revision == 0 {
		return Config{}, fmt.Errorf(`%w in etcd: write one by "etcdctl put %s '%s'"`, ErrNoConfig, s.config,
			`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	}
	c, err := ParseConfig(value)
	if err != nil {
		return Config{}, fmt.Errorf("read %s from etcd: %w", s.config, err)
	}
	return c, nil
}

// CreateConfig writes the network's configuration if there is none, and
// reports whether it did. A configuration that ParseConfig refuses is not
// written.
func (s *Store) CreateConfig(ctx context.Context, json []byte) (created bool, err error) {
	err = s.ReplaceConfig(ctx, json, 0)
	if errors.Is(err, ErrChanged) {
		return false, nil
	}
	return err == nil, err
}

// ReadConfig returns what the config key holds, be it good or bad, and since
// which revision; revision 0 where there is none.
func (s *Store) ReadConfig(ctx context.Context) (json []byte, revision int64, err error) {
	resp, err := s.get(ctx, s.config)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s from etcd: %w", s.config, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, 0, nil
	}
	return resp.Kvs[0].Value, resp.Kvs[0].ModRevision, nil
}

// ReplaceConfig writes the network's configuration in place of the one of a
// revision, 0 for none. The error matches ErrChanged where there is another by
// now, and ErrBadConfig for one that ParseConfig refuses.
func (s *Store) ReplaceConfig(ctx context.Context, json []byte, revision int64) error {
	if _, err := ParseConfig(json); err != nil {
		return err
	}
	err := s.retry(ctx, func(ctx context.Context, _ func()) error {
		resp, err := s.cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(s.config), "=", revision)).
			Then(clientv3.OpPut(s.config, string(json))).
			Commit()
		if err == nil && !resp.Succeeded {
			err = ErrChanged
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s to etcd: %w", s.config, err)
	}
	return nil
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
