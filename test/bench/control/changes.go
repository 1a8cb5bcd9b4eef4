// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

const (
	changeLimit = 30 * time.Second // for one change to arrive

	// Between two looks at the daemon or its map: at first, and as a share of how long it has been waited.
	// A daemon that is slow must not be made slower by those who wait for it.
	firstLook = 100 * time.Microsecond
	lookShare = 50
)

// joinAtRate has nodes join at a steady rate, each, where replace is set, right after another has left, and returns how
// long it took from each put to etcd until the map had its route, sorted.
func joinAtRate(ctx context.Context, h *lab.Host, e *clientv3.Client, first int, replace bool, o Options) (took []time.Duration, err error) {
	set, err := h.Maps()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	took = make([]time.Duration, o.Changes)
	g, ctx := errgroup.WithContext(ctx)
	tick := time.NewTicker(time.Second / time.Duration(o.Rate))
	defer tick.Stop()
	for i := range took {
		g.Go(func() (err error) {
			if replace {
				if err = leave(ctx, e, first-o.Changes+i); err != nil {
					return err
				}
			}
			took[i], err = joinOne(ctx, set, e, first+i)
			return err
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, g.Wait()
		}
	}
	err = g.Wait()
	slices.Sort(took)
	return took, err
}

// joinOne puts a node's record into etcd and waits for its route in the map.
func joinOne(ctx context.Context, set *maps.Set, e *clientv3.Client, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, changeLimit)
	defer cancel()
	key, value, err := record(n)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := e.Put(ctx, key, value); err != nil {
		return 0, fmt.Errorf("put lease into etcd: %w", err)
	}
	for {
		host, err := set.Routes.Lookup(subnetOf(n).Addr())
		took := time.Since(began)
		if err != nil || host != 0 {
			return took, err
		}
		select {
		case <-time.After(max(firstLook, took/lookShare)):
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for lease %s in the maps: %w", key, ctx.Err())
		}
	}
}

// quantile is the value that a share of all is not above. sorted has at least one.
func quantile(sorted []time.Duration, share float64) time.Duration {
	at := int(float64(len(sorted))*share+0.999999) - 1
	return sorted[min(max(at, 0), len(sorted)-1)]
}
