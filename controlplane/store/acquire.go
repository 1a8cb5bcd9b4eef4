// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Want describes the lease a node asks for. What is of a family that the
// network has not is left out of it.
type Want struct {
	PublicIP   netip.Addr // the zero Addr where the node has none
	PublicIPv6 netip.Addr
	Backend    topology.Encap
	VNI        uint32       // vxlan only
	MAC        topology.MAC // vxlan only, for a lease that has none yet: see Held.Lease for what came of it
	MACv6      topology.MAC // likewise
	// ZeroChecksum6 is the lease's; vxlan of an IPv6 network only.
	ZeroChecksum6 bool
	Prefer        netip.Prefix // the subnet the node had before, from subnet.env; the zero Prefix if none
	Prefer6       netip.Prefix // likewise of IPv6
	Had           Lease        // what this process held until now, perhaps by another PublicIP; the zero Lease if nothing
}

// Acquire leases a subnet of each of the network's families: that of Want.Had, else the one etcd has for the node, else
// Want.Prefer if it is free, else one at random among the first free ones; for IPv6 rather the one with
// the same place in its network as the IPv4 one. A lease that lacks one of the families, or has one
// that the network has no more, keeps the other.
// A lease that etcd has keeps its VTEP MAC, be it flannel's or ours: flannel's
// nodes do not take up another under an unchanged key.
// Losing it to another node while asking only means to ask for another. Its
// error matches ErrNoSubnet where there is none left.
func (s *Store) Acquire(ctx context.Context, c Config, w Want) (*Held, error) {
	var h *Held
	var listed *listing
	err := s.retry(ctx, func(ctx context.Context, ok func()) error {
		for {
			var err error
			if h, listed, err = s.tryAcquire(ctx, c, w); !errors.Is(err, errRaced) {
				return err
			}
			ok()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("acquire lease: %w", err)
	}
	listed.set(h.Lease())
	s.mu.Lock()
	s.acquired = listed // the first Watch need not read all that again
	s.mu.Unlock()
	return h, nil
}

// errRaced says that a key changed between reading and writing it.
var errRaced = errors.New("another node was faster")

func (s *Store) tryAcquire(ctx context.Context, c Config, w Want) (*Held, *listing, error) {
	claims, listed, err := s.claims(ctx)
	if err != nil {
		return nil, nil, err
	}
	revision := listed.at.revision
	var own claim
	if i := ownClaim(claims, w); i >= 0 {
		own = claims[i]
		claims = slices.Delete(claims, i, i+1)
	}
	h := &Held{store: s, config: c, lease: w.lease(c)}
	if h.lease.Subnet, err = choose(c.v4(), claims, claim.v4, own.subnet, w.Prefer); err != nil {
		return nil, nil, err
	}
	if h.lease.Subnet6, err = choose(c.v6(), claims, claim.v6, own.subnet6, w.Prefer6, c.beside(h.lease.Subnet)); err != nil {
		return nil, nil, err
	}
	h.lease.Key = leaseKey(h.lease.Subnet, h.lease.Subnet6)
	if own.kv == nil {
		return h, &listed, h.write(ctx, h.absent(revision))
	}
	listed.drop(own.key) // what comes of it is set
	return h, &listed, s.takeOver(ctx, h, w, own, claims, revision)
}

// ownClaim is the index of the node's own claim, -1 if there is none: what this
// process held, else what has the node's address, that of IPv4 first, as with flannel.
func ownClaim(claims []claim, w Want) int {
	i := slices.IndexFunc(claims, func(c claim) bool { return c.says(w.Had) })
	for _, node := range []netip.Addr{w.PublicIP, w.PublicIPv6} {
		if i < 0 && node.IsValid() {
			i = slices.IndexFunc(claims, func(c claim) bool { return c.isOf(node) })
		}
	}
	return i
}

// lease returns what w asks for in c's network, but for the subnets.
func (w Want) lease(c Config) Lease {
	l := Lease{PublicIP: w.PublicIP, PublicIPv6: w.PublicIPv6, Backend: w.Backend}
	if w.Backend != topology.EncapIPIP { // which may send to either, whatever it carries
		if !c.EnableIPv4 {
			l.PublicIP = netip.Addr{}
		}
		if !c.EnableIPv6 {
			l.PublicIPv6 = netip.Addr{}
		}
	}
	if w.Backend == topology.EncapVXLAN {
		l.VNI = w.VNI
		if c.EnableIPv4 {
			l.MAC = w.MAC
		}
		if c.EnableIPv6 {
			l.MACv6, l.ZeroChecksum6 = w.MACv6, w.ZeroChecksum6
		}
	}
	return l
}

// takeOver makes the node's own lease h's, under another key where its subnets
// are not the network's, or not all that the network has.
func (s *Store) takeOver(ctx context.Context, h *Held, w Want, own claim, others []claim, revision int64) error {
	if old, err := ParseLease(own.key, own.kv.Value); err == nil {
		h.keepMACs(old, others)
	}
	sameSubnet := own.subnet == h.lease.Subnet && (own.subnet.IsValid() || own.subnet6 == h.lease.Subnet6)
	h.reserved = sameSubnet && own.kv.Lease == 0
	if own.key != h.lease.Key {
		s.log.Warn("changing this node's lease: its subnets are not those that the network has",
			"was", own.key, "is", h.lease.Key, "network", h.config.Network, "IPv6 network", h.config.IPv6Network)
		return h.write(ctx, h.insteadOf(own, revision))
	}
	h.lease.CreateRevision = own.kv.CreateRevision
	if own.says(w.Had) {
		if resumed, err := h.resume(ctx, own.kv); resumed || err != nil {
			return err
		}
	}
	return h.write(ctx, h.unchanged(own.kv.ModRevision))
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

// keepMACs gives h the VTEP MACs of what it replaces, unless another node has
// one too: then one of the two has to change it, and this one is starting.
func (h *Held) keepMACs(old Lease, others []claim) {
	macs := func(l *Lease) [2]*topology.MAC { return [2]*topology.MAC{&l.MAC, &l.MACv6} }
	for i, mac := range macs(&h.lease) {
		was := *macs(&old)[i]
		if *mac == (topology.MAC{}) || was == *mac || was == (topology.MAC{}) {
			continue
		}
		double := slices.IndexFunc(others, func(c claim) bool {
			other, err := ParseLease(c.key, c.kv.Value)
			return err == nil && other.Node() != old.Node() && *macs(&other)[i] == was
		})
		if double >= 0 {
			h.store.log.Warn("another node's lease has this one's VTEP MAC, which is changed: restart flanneld on its peers, for they go on with the old one",
				"lease", h.lease.Key, "other", others[double].key, "was", was.String(), "is", mac.String())
			continue
		}
		*mac = was
		h.store.log.Info("keeping the VTEP MAC of this node's lease", "lease", h.lease.Key, "mac", was.String())
	}
}
