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
	"strings"
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
	claims, revision, err := s.claims(ctx)
	if err != nil {
		return nil, err
	}
	var own claim
	if i := ownClaim(claims, w); i >= 0 {
		own = claims[i]
		claims = slices.Delete(claims, i, i+1)
	}
	h := &Held{store: s, config: c, lease: w.lease(c)}
	if h.lease.Subnet, err = choose(c.v4(), claims, claim.v4, own.subnet, w.Prefer); err != nil {
		return nil, err
	}
	if h.lease.Subnet6, err = choose(c.v6(), claims, claim.v6, own.subnet6, w.Prefer6, c.beside(h.lease.Subnet)); err != nil {
		return nil, err
	}
	h.lease.Key = leaseKey(h.lease.Subnet, h.lease.Subnet6)
	if own.kv == nil {
		return h, h.write(ctx, h.absent(revision))
	}
	return h, s.takeOver(ctx, h, w, own, claims, revision)
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

// choose returns a subnet of r's: the node's own if it is one of them, whoever
// claims it too, else the first of some that is free, else one at random. It is
// the zero Prefix where the network has none of this family.
func choose(r subnetRange, others []claim, family func(claim) netip.Prefix, own netip.Prefix, prefer ...netip.Prefix) (netip.Prefix, error) {
	if !r.network.IsValid() {
		return netip.Prefix{}, nil
	}
	if r.fits(own) {
		return own, nil
	}
	taken, err := takenOf(r.network, others, family)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, p := range prefer {
		if p = p.Masked(); r.fits(p) && !taken.OverlapsPrefix(p) {
			return p, nil
		}
	}
	free := r.free(choices, taken.OverlapsPrefix)
	if len(free) == 0 {
		return netip.Prefix{}, fmt.Errorf("%w: all subnets from %v to %v are leased: enlarge the network or delete leases",
			ErrNoSubnet, r.first, r.last)
	}
	return free[rand.N(len(free))], nil
}

// claim is a key under PREFIX/subnets that names a subnet, whatever its value.
type claim struct {
	key     string
	subnet  netip.Prefix
	subnet6 netip.Prefix
	kv      *mvccpb.KeyValue
}

func (c claim) v4() netip.Prefix { return c.subnet }
func (c claim) v6() netip.Prefix { return c.subnet6 }

// claims lists the claims to subnets, sorted by key, and of which revision of etcd they are.
func (s *Store) claims(ctx context.Context) (all []claim, revision int64, err error) {
	at, err := s.list(ctx, func(key string, kv *mvccpb.KeyValue) {
		subnet, subnet6, bad := parseLeaseKey(key)
		if bad == nil {
			all = append(all, claim{key, subnet, subnet6, kv})
		}
	})
	return all, at.revision, err
}

// isOf reports whether the claim is that of the node at an address, however bad
// the rest of its value.
func (c claim) isOf(node netip.Addr) bool {
	var v struct{ PublicIP, PublicIPv6 string }
	_ = json.Unmarshal(c.kv.Value, &v) // what can be read is
	for _, s := range []string{v.PublicIP, v.PublicIPv6} {
		if a, err := netip.ParseAddr(s); err == nil && a.Unmap() == node {
			return true
		}
	}
	return false
}

// says reports whether the claim is just this lease.
func (c claim) says(l Lease) bool {
	value, err := l.Value()
	return err == nil && c.key == l.Key && bytes.Equal(c.kv.Value, value)
}

// conflicts reports whether the claim has a subnet of the network's that overlaps one of l's.
func (c claim) conflicts(n Config, l Lease) bool {
	return counts(n.Network, c.subnet) && c.subnet.Overlaps(l.Subnet) ||
		counts(n.IPv6Network, c.subnet6) && c.subnet6.Overlaps(l.Subnet6)
}

// counts reports whether a claim to subnet counts in network. Others nobody serves, and
// a single one that is too large would else leave no subnet to anyone.
func counts(network, subnet netip.Prefix) bool {
	return network.Contains(subnet.Addr()) && subnet.Bits() >= network.Bits()
}

// takenOf returns the addresses of network that are claimed.
func takenOf(network netip.Prefix, claims []claim, family func(claim) netip.Prefix) (*netipx.IPSet, error) {
	var b netipx.IPSetBuilder
	for _, c := range claims {
		if p := family(c); counts(network, p) {
			b.AddPrefix(p)
		}
	}
	return b.IPSet()
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
