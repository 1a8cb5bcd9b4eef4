// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// ErrChanged is returned where what was read is not what is in etcd any more.
var ErrChanged = errors.New("changed meanwhile")

// ErrPending is ParseLease's error for a reservation whose node has not come yet.
var ErrPending = errors.New("reserved for a node that has not come yet")

// pending is the BackendType of such a reservation. Nodes, flannel's too, serve
// no lease of a type they do not know; the node it is for overwrites it.
const pending topology.Encap = "reserved"

// Record is what etcd holds under one key of PREFIX/subnets.
type Record struct {
	Lease Lease // of what is no lease the key and the revisions; of a reservation for a node to come also Subnet and PublicIP
	Bad   error // why it is no lease, one line; ErrPending: a reservation
	// Expires is when etcd takes the lease back; the zero Time where it is reserved.
	Expires time.Time

	value []byte
	grant clientv3.LeaseID
}

// Reserved reports whether the lease lives until somebody deletes it.
func (r Record) Reserved() bool { return r.grant == clientv3.NoLease }

// concurrentAsks bounds the requests under way at a time.
const concurrentAsks = 16

// Records lists the leases and what else is among them, sorted by key.
func (s *Store) Records(ctx context.Context) ([]Record, error) {
	var all []Record
	err := s.retry(ctx, func(ctx context.Context, _ func()) error {
		all = nil
		if _, err := s.list(ctx, func(key string, kv *mvccpb.KeyValue) { all = append(all, newRecord(key, kv)) }); err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(concurrentAsks)
		for i := range all {
			g.Go(func() error { return s.lifeOf(ctx, &all[i]) })
		}
		return g.Wait()
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return all, nil
}

func newRecord(key string, kv *mvccpb.KeyValue) Record {
	l, err := ParseLease(key, kv.Value)
	l.Key, l.CreateRevision, l.ModRevision = key, kv.CreateRevision, kv.ModRevision
	return Record{Lease: l, Bad: err, value: kv.Value, grant: clientv3.LeaseID(kv.Lease)}
}

// lifeOf asks when r expires.
func (s *Store) lifeOf(ctx context.Context, r *Record) error {
	if r.Reserved() {
		return nil
	}
	asked := time.Now()
	ttl, err := s.cli.TimeToLive(ctx, r.grant)
	if err == nil {
		r.Expires = asked.Add(time.Duration(ttl.TTL) * time.Second)
	}
	return err
}

// Reserve takes the time limit off a lease, so that its node keeps the subnet
// however long it is away. What the lease says stays as it is. The error
// matches ErrChanged where that is another by now.
func (s *Store) Reserve(ctx context.Context, r Record) error {
	return s.rewrite(ctx, r, life{})
}

// Unreserve gives a lease a time limit again, and returns when it ends; its
// node, if it is there, renews it. The error is as with Reserve.
func (s *Store) Unreserve(ctx context.Context, r Record) (time.Time, error) {
	var l life
	err := s.retry(ctx, func(ctx context.Context, _ func()) (err error) {
		l, err = s.grant(ctx)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("grant lease %s time: %w", r.Lease.Key, err)
	}
	if err = s.rewrite(ctx, r, l); errors.Is(err, ErrChanged) {
		s.revoke(ctx, l.grant)
	}
	return l.ends, err
}

// rewrite puts r's value again, with another life.
func (s *Store) rewrite(ctx context.Context, r Record, l life) error {
	return s.replace(ctx, r, clientv3.OpPut(s.subnets+r.Lease.Key, string(r.value), clientv3.WithLease(l.grant)))
}

// Delete deletes a lease, or what is none. The error is as with Reserve.
func (s *Store) Delete(ctx context.Context, r Record) error {
	return s.replace(ctx, r, clientv3.OpDelete(s.subnets+r.Lease.Key))
}

// replace does op if r is in etcd as it was read.
func (s *Store) replace(ctx context.Context, r Record, op clientv3.Op) error {
	err := s.retry(ctx, func(ctx context.Context, _ func()) error {
		resp, err := s.cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(s.subnets+r.Lease.Key), "=", r.Lease.ModRevision)).
			Then(op).
			Commit()
		if err == nil && !resp.Succeeded {
			err = ErrChanged
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write lease %s: %w", r.Lease.Key, err)
	}
	return nil
}

// ReserveFor keeps l's subnets, of one family or both, for the node at l's
// PublicIP or PublicIPv6, which has no lease yet; what else l says does not
// count. The subnets must be of the network's, and free.
func (s *Store) ReserveFor(ctx context.Context, c Config, l Lease) error {
	l = Lease{
		Key: leaseKey(l.Subnet, l.Subnet6), Subnet: l.Subnet, Subnet6: l.Subnet6,
		PublicIP: l.PublicIP, PublicIPv6: l.PublicIPv6, Backend: pending,
	}
	for _, subnet := range []netip.Prefix{l.Subnet, l.Subnet6} {
		if r := c.of(subnet); subnet.IsValid() && !r.fits(subnet) {
			if !r.network.IsValid() {
				return fmt.Errorf("%v is no subnet of the network's: it has none of this family", subnet)
			}
			return fmt.Errorf("%v is no subnet of the network's: those are /%d, from %v to %v", subnet, r.length, r.first, r.last)
		}
	}
	value, err := l.Value()
	if err != nil {
		return err
	}
	if _, err = ParseLease(l.Key, value); !errors.Is(err, ErrPending) {
		return err
	}
	err = s.retry(ctx, func(ctx context.Context, _ func()) error {
		claims, listed, listErr := s.claims(ctx)
		if listErr != nil {
			return listErr
		}
		for _, other := range claims {
			switch {
			case other.isOf(l.Node()):
				return fmt.Errorf("node %v has lease %s: reserve that one", l.Node(), other.key)
			case other.conflicts(c, l):
				return fmt.Errorf("it is that of lease %s: choose a free one", other.key)
			}
		}
		resp, txnErr := s.cli.Txn(ctx).
			If((&Held{store: s, config: c, lease: l}).absent(listed.at.revision).holds).
			Then(clientv3.OpPut(s.subnets+l.Key, string(value))).
			Commit()
		if txnErr == nil && !resp.Succeeded {
			return ErrChanged
		}
		return txnErr
	})
	if err != nil {
		return fmt.Errorf("reserve %s: %w", l.Key, err)
	}
	return nil
}

// Find returns the record that a user names by its key, its subnet or its
// subnet's first address with the length ("10.5.1.0/24", "10.5.1.1/24").
func Find(records []Record, name string) (Record, error) {
	subnet, err := netip.ParsePrefix(name)
	for _, r := range records {
		if r.Lease.Key == name || err == nil && r.covers(subnet.Masked()) {
			return r, nil
		}
	}
	return Record{}, fmt.Errorf("there is no lease %q: see those there are with `bpfnet lease list`", name)
}

// covers reports whether the record's key names subnet, whatever its value.
func (r Record) covers(subnet netip.Prefix) bool {
	v4, v6, err := parseLeaseKey(r.Lease.Key)
	return err == nil && (v4 == subnet || v6 == subnet)
}
