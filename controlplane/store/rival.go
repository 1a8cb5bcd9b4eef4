// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Two nodes with one PublicIP take each other's lease for their own, as a node
// does with the one it finds when it starts. Who holds it sees it written with
// another grant, and answers: it writes what it found once more, with that
// grant. So who came knows that it is not alone. An answer is not
// answered, and to other nodes both are renewals, which say nothing new.

const (
	askEvery     = 10 * time.Minute // whether the other is there still
	answerWithin = 10 * time.Second
)

// rival is what is known of another process that holds the same lease; the zero
// rival is none.
type rival struct {
	ask   time.Time // when to write the lease next to see whether it answers
	quiet time.Time // if it has not answered by then it has gone; zero where it was not asked

	answered int64 // the grant of other data of its that was answered last; 0: none, and what has none is not
}

// seen notes that it is there.
func (r *rival) seen(now time.Time) { r.ask, r.quiet = now.Add(askEvery), time.Time{} }

func (r *rival) toAsk(now time.Time) bool { return !r.ask.IsZero() && !now.Before(r.ask) }

// asked notes that the lease has been written, and reports whether somebody may answer.
func (r *rival) asked(now time.Time) bool {
	if r.ask.IsZero() {
		return false
	}
	r.ask, r.quiet = now.Add(askEvery), now.Add(answerWithin)
	return true
}

// gone reports, once, that it did not answer.
func (r *rival) gone(now time.Time) bool {
	if r.quiet.IsZero() || now.Before(r.quiet) {
		return false
	}
	r.ask, r.quiet = time.Time{}, time.Time{}
	return true
}

// next is when something is to be done about it, at if not before.
func (r *rival) next(at time.Time) time.Time {
	for _, t := range []time.Time{r.ask, r.quiet} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

func (h *Held) reportRival(kv *mvccpb.KeyValue, changed func(Event)) {
	h.rival.seen(time.Now())
	h.setRevisions(kv.CreateRevision, kv.ModRevision)
	changed(Event{Kind: Altered, Lease: h.Lease(), Err: fmt.Errorf("lease %s was written again by another process: "+
		"if another node has the PublicIP %v too, give each its own", h.lease.Key, h.lease.Node())})
}

// answer tells who wrote kv that this node is there too, and returns the
// key's revision: another one where it has been written again meanwhile.
func (h *Held) answer(ctx context.Context, kv *mvccpb.KeyValue) (mod int64, err error) {
	resp, err := h.store.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
		Then(clientv3.OpPut(string(kv.Key), string(kv.Value), clientv3.WithLease(clientv3.LeaseID(kv.Lease)))).
		Commit()
	if err != nil || !resp.Succeeded {
		return kv.ModRevision, err
	}
	return resp.Header.Revision, nil
}
