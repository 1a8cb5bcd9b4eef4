// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// condition is what has to hold of etcd for a lease to be written.
type condition struct {
	holds   clientv3.Cmp
	creates bool          // the key is not there yet
	since   int64         // if not 0: of the keys created after that revision none may conflict with the lease
	also    []clientv3.Op // what is done together with the writing
}

// unchanged: the lease's key is as it was at a revision.
func (h *Held) unchanged(mod int64) condition {
	return condition{holds: clientv3.Compare(clientv3.ModRevision(h.store.subnets+h.lease.Key), "=", mod)}
}

// absent: nobody has the lease's subnets, as when the leases were listed. The key
// of a dual-stack lease goes on where that of the same IPv4 subnet ends, so one
// look tells of both. No key tells of an IPv6 subnet beside another IPv4 one:
// where it is not the one that goes with the IPv4 subnet, nobody may have got any since.
func (h *Held) absent(revision int64) condition {
	l := h.lease
	if l.Subnet.IsValid() && l.Subnet6.IsValid() && l.Subnet6 != h.config.beside(l.Subnet) {
		return h.nothingSince(revision)
	}
	key := l.Key
	if l.Subnet.IsValid() {
		key = leaseKey(l.Subnet, netip.Prefix{})
	}
	c := condition{holds: clientv3.Compare(clientv3.Version(h.store.subnets+key).WithPrefix(), "=", 0), creates: true}
	if l.Subnet.IsValid() && l.Subnet6.IsValid() { // somebody may have taken the IPv6 one beside another
		c.since = revision
	}
	return c
}

// nothingSince: no lease has been written since a revision.
func (h *Held) nothingSince(revision int64) condition {
	return condition{
		holds:   clientv3.Compare(clientv3.ModRevision(h.store.subnets).WithPrefix(), "<", revision+1),
		creates: true,
	}
}

// insteadOf: likewise, and old goes as the lease comes.
func (h *Held) insteadOf(old claim, revision int64) condition {
	c := h.nothingSince(revision)
	c.also = []clientv3.Op{clientv3.OpDelete(string(old.kv.Key))}
	return c
}

// write puts h's lease into etcd under a new grant.
func (h *Held) write(ctx context.Context, c condition) error {
	s, key := h.store, h.store.subnets+h.lease.Key
	value, err := h.sound()
	if err != nil {
		return err
	}
	var fresh life
	if !h.reserved {
		if fresh, err = s.grant(ctx); err != nil {
			return err
		}
		h.tried = fresh
	}
	ops := append(c.also, clientv3.OpPut(key, string(value), clientv3.WithLease(fresh.grant)))
	if c.since != 0 {
		created := clientv3.OpGet(s.subnets, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithMinCreateRev(c.since+1))
		ops = append([]clientv3.Op{created}, ops...)
	}
	resp, err := s.cli.Txn(ctx).If(c.holds).Then(ops...).Commit()
	if err != nil {
		// Perhaps it was put all the same: to revoke the grant would delete it.
		return err
	}
	if !resp.Succeeded || c.since != 0 && h.conflicts(resp.Responses[0].GetResponseRange().GetKvs()) {
		s.revoke(ctx, fresh.grant) // and the key goes with it
		return errRaced
	}
	h.value, h.life = value, fresh
	create := h.lease.CreateRevision
	if c.creates {
		create = resp.Header.Revision
	}
	h.setRevisions(create, resp.Header.Revision)
	return nil
}

// conflicts reports whether one of these keys has a subnet of h's.
func (h *Held) conflicts(kvs []*mvccpb.KeyValue) bool {
	return slices.ContainsFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		subnet, subnet6, err := parseLeaseKey(strings.TrimPrefix(string(kv.Key), h.store.subnets))
		return err == nil && claim{subnet: subnet, subnet6: subnet6}.conflicts(h.config, h.lease)
	})
}

// sound is the lease's value, unless other nodes would refuse it.
func (h *Held) sound() ([]byte, error) {
	value, err := h.lease.Value()
	if err == nil {
		_, err = ParseLease(h.lease.Key, value)
	}
	if err == nil && h.lease.Subnet6.IsValid() && h.lease.Backend == topology.EncapVXLAN && h.lease.MACv6 == (topology.MAC{}) {
		err = fmt.Errorf("encode lease %s: a vxlan lease of IPv6 needs a VTEP MAC of its own for that", h.lease.Key)
	}
	return value, err
}

// grant asks for the time a lease lives.
func (s *Store) grant(ctx context.Context) (life, error) {
	asked := time.Now()
	g, err := s.cli.Grant(ctx, int64(s.leaseTTL.Seconds()))
	if err != nil {
		return life{}, err
	}
	return life{g.ID, asked.Add(time.Duration(g.TTL) * time.Second)}, nil
}

// revoke gives back a grant that nothing uses. Where that fails, etcd takes it
// back when its time is over.
func (s *Store) revoke(ctx context.Context, grant clientv3.LeaseID) {
	if grant == clientv3.NoLease {
		return
	}
	if _, err := s.cli.Revoke(context.WithoutCancel(ctx), grant); err != nil {
		s.log.Debug("revoke grant", "err", err)
	}
}
