// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Held is a lease this node has acquired.
type Held struct {
	store  *Store
	config Config // of the network that lease is of

	mu    sync.Mutex // for Lease, which may be called while Keep runs
	lease Lease

	value    []byte // of lease in etcd
	reserved bool   // the key has no TTL: an administrator keeps it for this node
	life     life   // of the key; the zero life where it is reserved
	tried    life   // that the key may have too, for etcd did not answer when it was put

	rival   rival
	foreign int64 // ModRevision of what another wrote and was reported; 0 while the key is ours
	lost    bool  // that the subnet is taken was reported
}

// life is a grant of etcd's and when, at the earliest, it is over.
type life struct {
	grant clientv3.LeaseID
	ends  time.Time
}

// EventKind says what became of a held lease.
type EventKind string

// The kinds of Event.
const (
	Renewed   EventKind = "renewed"    // it lives for another LeaseTTL
	Recreated EventKind = "re-created" // its key was gone, by expiry or deletion, and is there again
	Altered   EventKind = "altered"    // another has written its key, which is left as it is
	Restored  EventKind = "restored"   // its key says again what it should
	Reserved  EventKind = "reserved"   // its key was put without a TTL, and so it stays
	Limited   EventKind = "limited"    // its reserved key was put with a TTL, and is renewed from now on
	Lost      EventKind = "lost"       // its key is gone and its subnet another's; it is tried again
)

// Event is reported by Keep.
type Event struct {
	Kind  EventKind
	Lease Lease // what etcd says now; of an Altered key that is no lease, the Key alone
	Err   error // Altered and Lost: what is wrong and what to do, one line
}

// retryLost is how often a lost subnet is looked after.
const retryLost = time.Minute

// Lease returns the lease as it was last written.
func (h *Held) Lease() Lease {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lease
}

func (h *Held) setRevisions(create, mod int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lease.CreateRevision, h.lease.ModRevision = create, mod
}

// Keep renews the lease whenever only margin is left of its life, by a new
// grant and a put as flannel does, and puts its key back when that is gone. A
// key that another has written it leaves alone. All that it reports to changed.
// It returns when ctx ends or etcd refuses.
func (h *Held) Keep(ctx context.Context, margin time.Duration, changed func(Event)) error {
	if margin <= 0 || margin >= h.store.leaseTTL {
		return fmt.Errorf("keep lease %s: renew margin %v is not between 0 and the lease's life of %v",
			h.lease.Key, margin, h.store.leaseTTL)
	}
	err := h.store.retry(ctx, func(ctx context.Context, ok func()) error {
		for {
			rev, wake, err := h.look(ctx, margin, changed)
			if errors.Is(err, errRaced) {
				continue
			}
			if err != nil {
				return err
			}
			ok()
			if err = h.wait(ctx, rev, wake); err != nil {
				return err
			}
		}
	})
	return fmt.Errorf("keep lease %s: %w", h.lease.Key, err)
}

// wait returns when the key may have changed since revision rev, or at wake.
func (h *Held) wait(ctx context.Context, rev int64, wake time.Time) error {
	wctx := ctx
	if !wake.IsZero() {
		var cancel context.CancelFunc
		wctx, cancel = context.WithDeadline(ctx, wake)
		defer cancel()
	}
	err := h.store.changed(wctx, h.store.subnets+h.lease.Key, rev)
	if wctx.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// look compares the key with what it should be and does what is needed. It
// returns the revision it has seen and when to look again, the zero Time for
// not before a change.
func (h *Held) look(ctx context.Context, margin time.Duration, changed func(Event)) (int64, time.Time, error) {
	resp, err := h.store.cli.Get(ctx, h.store.subnets+h.lease.Key)
	if err != nil {
		return 0, time.Time{}, err
	}
	rev := resp.Header.Revision
	if len(resp.Kvs) == 0 {
		var wake time.Time
		wake, err = h.recreate(ctx, margin, changed)
		return rev, wake, err
	}
	h.lost = false
	kv := resp.Kvs[0]
	if !bytes.Equal(kv.Value, h.value) {
		return rev, time.Time{}, h.reportForeign(ctx, kv, changed)
	}
	if h.foreign != 0 {
		h.foreign = 0
		changed(Event{Kind: Restored, Lease: h.Lease()})
	}
	switch {
	case kv.Lease != int64(h.life.grant):
		if err = h.adopt(ctx, kv, changed); err != nil {
			return 0, time.Time{}, err
		}
	case kv.ModRevision != h.lease.ModRevision && !h.reserved:
		h.reportRival(kv, changed) // who has answered
	}
	if h.reserved {
		return rev, time.Time{}, nil
	}
	wake, err := h.renew(ctx, kv.ModRevision, margin, changed)
	return max(rev, h.lease.ModRevision), wake, err
}

// renew does so when it is time, and returns when it is next.
func (h *Held) renew(ctx context.Context, mod int64, margin time.Duration, changed func(Event)) (time.Time, error) {
	now := time.Now()
	due := h.life.ends.Sub(now) <= margin
	alone := h.rival.gone(now)
	if due || h.rival.toAsk(now) {
		if err := h.write(ctx, h.unchanged(mod)); err != nil {
			return time.Time{}, err
		}
		alone = !h.rival.asked(now)
	}
	if alone {
		changed(Event{Kind: Renewed, Lease: h.Lease()})
	}
	return h.rival.next(h.life.ends.Add(-margin)), nil
}

// reportForeign tells of a key that another has written, once for each writing.
func (h *Held) reportForeign(ctx context.Context, kv *mvccpb.KeyValue, changed func(Event)) error {
	if h.foreign == kv.ModRevision {
		return nil
	}
	h.foreign = kv.ModRevision
	theirs, err := ParseLease(h.lease.Key, kv.Value)
	theirs.Key, theirs.CreateRevision, theirs.ModRevision = h.lease.Key, kv.CreateRevision, kv.ModRevision
	switch {
	case err != nil:
		err = fmt.Errorf("lease %s was overwritten by what is none (%w): delete its key and it is put back",
			h.lease.Key, err)
	case theirs.Node() == h.lease.Node():
		err = fmt.Errorf("lease %s was overwritten with this node's PublicIP %v but other data: "+
			"give each node a PublicIP of its own, and run one daemon a node", h.lease.Key, h.lease.Node())
	default:
		err = fmt.Errorf("lease %s was overwritten by node %v: restart one of the two nodes with another subnet, "+
			"or delete the key and it is put back", h.lease.Key, theirs.Node())
	}
	changed(Event{Kind: Altered, Lease: theirs, Err: err})
	if theirs.Node() != h.lease.Node() || kv.Lease == h.rival.answered {
		return nil
	}
	h.rival.answered = kv.Lease
	h.foreign, err = h.answer(ctx, kv)
	return err
}

// adopt goes on with the life that the key has now. We gave it that ourselves,
// or another process has put the same value.
func (h *Held) adopt(ctx context.Context, kv *mvccpb.KeyValue, changed func(Event)) error {
	now := life{grant: clientv3.LeaseID(kv.Lease)}
	var event Event
	switch now.grant {
	case clientv3.NoLease:
		event.Kind = Reserved
	case h.tried.grant:
		now, event.Kind = h.tried, Renewed
	default:
		asked := time.Now()
		ttl, err := h.store.cli.TimeToLive(ctx, now.grant)
		if err != nil {
			return err
		}
		now.ends = asked.Add(time.Duration(ttl.TTL) * time.Second)
		if h.reserved {
			event.Kind = Limited
			break
		}
		h.reserved, h.life = false, now
		h.reportRival(kv, changed)
		mod, err := h.answer(ctx, kv)
		h.setRevisions(kv.CreateRevision, mod)
		return err
	}
	h.reserved, h.life = now == life{}, now
	h.setRevisions(kv.CreateRevision, kv.ModRevision)
	event.Lease = h.Lease()
	changed(event)
	return nil
}

// recreate puts the key back if no other lease has its subnet by now.
func (h *Held) recreate(ctx context.Context, margin time.Duration, changed func(Event)) (time.Time, error) {
	claims, listed, err := h.store.claims(ctx)
	if err != nil {
		return time.Time{}, err
	}
	i := slices.IndexFunc(claims, func(c claim) bool { return c.conflicts(h.config, h.lease) })
	if i >= 0 && claims[i].key == h.lease.Key {
		return time.Time{}, errRaced
	}
	if i >= 0 {
		if !h.lost {
			h.lost = true
			changed(Event{Kind: Lost, Lease: h.Lease(), Err: fmt.Errorf("lease %s is gone and its subnet is that of lease %s: "+
				"restart this node's daemon to get another subnet, or delete that key", h.lease.Key, claims[i].key)})
		}
		return time.Now().Add(retryLost), nil
	}
	h.reserved = false
	if err = h.write(ctx, h.absent(listed.at.revision)); err != nil {
		return time.Time{}, err
	}
	h.foreign, h.lost, h.rival = 0, false, rival{}
	changed(Event{Kind: Recreated, Lease: h.Lease()})
	return h.life.ends.Add(-margin), nil
}

// Release gives the lease back, so that its subnet is free at once. What
// another has written and what is reserved stays. It is to be called when Keep
// has returned.
func (h *Held) Release(ctx context.Context) error {
	if h.reserved {
		return nil
	}
	key := h.store.subnets + h.lease.Key
	err := h.store.retry(ctx, func(ctx context.Context, _ func()) error {
		resp, err := h.store.cli.Txn(ctx).
			If(clientv3.Compare(clientv3.Value(key), "=", string(h.value))).
			Then(clientv3.OpDelete(key)).
			Commit()
		if err == nil && resp.Succeeded {
			h.store.revoke(ctx, h.life.grant)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("release lease %s: %w", h.lease.Key, err)
	}
	return nil
}
