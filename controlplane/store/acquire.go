// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go4.org/netipx"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// ErrNoSubnet is returned where all of the network's subnets are leased.
var ErrNoSubnet = errors.New("out of subnets")

// choices is how many free subnets one is drawn from, so that nodes that start
// together seldom draw the same (flannel's allocateSubnet).
const choices = 100

// Want describes the lease a node asks for.
type Want struct {
	PublicIP netip.Addr
	Backend  topology.Encap
	VNI      uint32       // vxlan only
	MAC      topology.MAC // vxlan only, for a lease that has none yet: see Held.Lease for what came of it
	Prefer   netip.Prefix // the subnet the node had before, from subnet.env; the zero Prefix if none
	Had      Lease        // what this process held until now, perhaps by another PublicIP; the zero Lease if nothing
}

// Acquire leases a subnet: that of Want.Had, else the one etcd has for Want.PublicIP, else
// Want.Prefer if it is free, else one at random among the first free ones. A
// lease that etcd has keeps its VTEP MAC, be it flannel's or ours: flannel's
// nodes do not take up another under an unchanged key.
// Losing it to another node while asking only means to ask for another. Its
// error matches ErrNoSubnet where there is none left.
func (s *Store) Acquire(ctx context.Context, c Config, w Want) (*Held, error) {
	if !c.EnableIPv4 {
		return nil, errors.New("acquire lease: the network has no IPv4, and IPv6 is not carried yet: set EnableIPv4")
	}
	var h *Held
	err := s.retry(ctx, func(ctx context.Context, ok func()) error {
		for {
			var err error
			if h, err = s.tryAcquire(ctx, c, w); !errors.Is(err, errRaced) {
				return err
			}
			ok()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("acquire lease: %w", err)
	}
	return h, nil
}

// errRaced says that a key changed between reading and writing it.
var errRaced = errors.New("another node was faster")

func (s *Store) tryAcquire(ctx context.Context, c Config, w Want) (*Held, error) {
	r := subnetRange{network: c.Network, length: c.SubnetLen, first: c.SubnetMin, last: c.SubnetMax}
	claims, err := s.claims(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(claims, func(c claim) bool { return c.says(w.Had) })
	if i < 0 {
		i = slices.IndexFunc(claims, func(c claim) bool { return c.isOf(w.PublicIP) })
	}
	if i >= 0 {
		if c.Fits(claims[i].subnet) {
			return s.reuse(ctx, c.Network, w, claims[i], claims)
		}
		s.log.Warn("dropping this node's lease: its subnet is not one of the network's",
			"lease", claims[i].key, "network", c.Network, "length", c.SubnetLen)
		if err = s.drop(ctx, claims[i]); err != nil {
			return nil, err
		}
		return nil, errRaced // against ourselves: look again
	}
	taken, err := takenOf(c.Network, claims)
	if err != nil {
		return nil, err
	}
	subnet := w.Prefer.Masked()
	if !c.Fits(subnet) || taken.OverlapsPrefix(subnet) {
		free := r.free(choices, taken.OverlapsPrefix)
		if len(free) == 0 {
			return nil, fmt.Errorf("%w: all subnets from %v to %v are leased: enlarge the network or delete leases",
				ErrNoSubnet, c.SubnetMin, c.SubnetMax)
		}
		subnet = free[rand.N(len(free))]
	}
	h := &Held{store: s, network: c.Network, lease: w.lease(subnet)}
	return h, h.write(ctx, 0)
}

// lease returns what w asks for on subnet.
func (w Want) lease(subnet netip.Prefix) Lease {
	l := Lease{Key: leaseKey(subnet, netip.Prefix{}), Subnet: subnet, PublicIP: w.PublicIP, Backend: w.Backend}
	if w.Backend == topology.EncapVXLAN {
		l.VNI, l.MAC = w.VNI, w.MAC
	}
	return l
}

// claim is a key under PREFIX/subnets that names a subnet, whatever its value.
type claim struct {
	key     string
	subnet  netip.Prefix
	subnet6 netip.Prefix
	kv      *mvccpb.KeyValue
}

// claims lists the claims to IPv4 subnets, sorted by key.
func (s *Store) claims(ctx context.Context) (all []claim, err error) {
	_, err = s.list(ctx, func(key string, kv *mvccpb.KeyValue) {
		subnet, subnet6, bad := parseLeaseKey(key)
		if bad == nil && subnet.IsValid() {
			all = append(all, claim{key, subnet, subnet6, kv})
		}
	})
	return all, err
}

// isOf reports whether the claim is that of the node at publicIP, however bad
// the rest of its value.
func (c claim) isOf(publicIP netip.Addr) bool {
	var v struct{ PublicIP netip.Addr }
	return json.Unmarshal(c.kv.Value, &v) == nil && v.PublicIP == publicIP
}

// says reports whether the claim is just this lease.
func (c claim) says(l Lease) bool {
	value, err := l.Value()
	return err == nil && c.key == l.Key && bytes.Equal(c.kv.Value, value)
}

// within reports whether the claim counts in network. Others nobody serves, and
// a single one that is too large would else leave no subnet to anyone.
func (c claim) within(network netip.Prefix) bool {
	return network.Contains(c.subnet.Addr()) && c.subnet.Bits() >= network.Bits()
}

// takenOf returns the addresses of network that are claimed.
func takenOf(network netip.Prefix, claims []claim) (*netipx.IPSet, error) {
	var b netipx.IPSetBuilder
	for _, c := range claims {
		if c.within(network) {
			b.AddPrefix(c.subnet)
		}
	}
	return b.IPSet()
}

// reuse takes over the node's own lease. What it says of IPv6, which flannel
// on this node may have written, stays.
func (s *Store) reuse(ctx context.Context, network netip.Prefix, w Want, own claim, all []claim) (*Held, error) {
	h := &Held{store: s, network: network, lease: w.lease(own.subnet), reserved: own.kv.Lease == 0}
	h.lease.Key, h.lease.Subnet6, h.lease.CreateRevision = own.key, own.subnet6, own.kv.CreateRevision
	if old, err := ParseLease(own.key, own.kv.Value); err == nil {
		h.lease.PublicIPv6, h.lease.MACv6 = old.PublicIPv6, old.MACv6
		s.keepMAC(&h.lease, old, all)
	}
	if own.says(w.Had) {
		if resumed, err := h.resume(ctx, own.kv); resumed || err != nil {
			return h, err
		}
	}
	if err := h.write(ctx, own.kv.ModRevision); err != nil {
		return nil, err
	}
	return h, nil
}

// resume goes on with the lease as this process has left it in etcd, writing
// nothing; it reports whether that is what the lease has to be.
func (h *Held) resume(ctx context.Context, kv *mvccpb.KeyValue) (bool, error) {
	value, err := h.lease.Value()
	if err != nil || !bytes.Equal(value, kv.Value) {
		return false, err
	}
	now := life{grant: clientv3.LeaseID(kv.Lease)}
	if now.grant != clientv3.NoLease {
		asked := time.Now()
		ttl, err := h.store.cli.TimeToLive(ctx, now.grant)
		if err != nil || ttl.TTL <= 0 {
			return false, err
		}
		now.ends = asked.Add(time.Duration(ttl.TTL) * time.Second)
	}
	h.value, h.life = value, now
	h.setRevisions(kv.CreateRevision, kv.ModRevision)
	return true, nil
}

// keepMAC gives l the VTEP MAC of what it replaces, unless another node has
// that too: then one of the two has to change it, and this one is starting.
func (s *Store) keepMAC(l *Lease, old Lease, all []claim) {
	if l.Backend != topology.EncapVXLAN || old.MAC == l.MAC || old.MAC == (topology.MAC{}) {
		return
	}
	for _, c := range all {
		other, err := ParseLease(c.key, c.kv.Value)
		if err == nil && other.PublicIP != old.PublicIP && other.MAC == old.MAC {
			s.log.Warn("another node's lease has this one's VTEP MAC, which is changed: restart flanneld on its peers, for they go on with the old one",
				"lease", l.Key, "other", c.key, "was", old.MAC.String(), "is", l.MAC.String())
			return
		}
	}
	l.MAC = old.MAC
	s.log.Info("keeping the VTEP MAC of this node's lease", "lease", l.Key, "mac", l.MAC.String())
}

// drop deletes a claim that is as it was read.
func (s *Store) drop(ctx context.Context, c claim) error {
	key := string(c.kv.Key)
	_, err := s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", c.kv.ModRevision)).
		Then(clientv3.OpDelete(key)).
		Commit()
	return err
}

// write puts h's lease into etcd under a new grant, on condition that its key
// is as it was at revision mod; 0 for not there at all.
func (h *Held) write(ctx context.Context, mod int64) error {
	s, key := h.store, h.store.subnets+h.lease.Key
	value, err := h.lease.Value()
	if err == nil {
		_, err = ParseLease(h.lease.Key, value) // write nothing that other nodes would refuse
	}
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
	unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", mod)
	if mod == 0 {
		// The key of a dual-stack lease goes on where that of the same IPv4 subnet ends: neither may be there.
		either := s.subnets + leaseKey(h.lease.Subnet, netip.Prefix{})
		unchanged = clientv3.Compare(clientv3.Version(either).WithPrefix(), "=", 0)
	}
	resp, err := s.cli.Txn(ctx).
		If(unchanged).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(fresh.grant))).
		Commit()
	if err != nil {
		// Perhaps it was put all the same: to revoke the grant would delete it.
		return err
	}
	if !resp.Succeeded {
		s.revoke(ctx, fresh.grant)
		return errRaced
	}
	h.value, h.life = value, fresh
	create := h.lease.CreateRevision
	if mod == 0 {
		create = resp.Header.Revision
	}
	h.setRevisions(create, resp.Header.Revision)
	return nil
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
