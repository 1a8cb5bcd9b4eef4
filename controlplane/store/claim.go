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

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go4.org/netipx"
)

// ErrNoSubnet is returned where all of the network's subnets are leased.
var ErrNoSubnet = errors.New("out of subnets")

// choices is how many free subnets one is drawn from, so that nodes that start
// together seldom draw the same (flannel's allocateSubnet).
const choices = 100

// claim is a key under PREFIX/subnets that names a subnet, whatever its value.
type claim struct {
	key     string
	subnet  netip.Prefix
	subnet6 netip.Prefix
	kv      *mvccpb.KeyValue
	nodes   [2]netip.Addr // of a lease
	isLease bool
}

func (c claim) v4() netip.Prefix { return c.subnet }
func (c claim) v6() netip.Prefix { return c.subnet6 }

// claims lists the claims to subnets, sorted by key, and the leases with them.
func (s *Store) claims(ctx context.Context) (all []claim, l listing, err error) {
	l.bad = map[string]error{}
	l.at, err = s.list(ctx, func(key string, kv *mvccpb.KeyValue) {
		lease, bad := parseKeyValue(key, kv)
		l.take(lease, key, bad)
		c := claim{key: key, subnet: lease.Subnet, subnet6: lease.Subnet6, kv: kv, nodes: [2]netip.Addr{lease.PublicIP, lease.PublicIPv6}, isLease: bad == nil}
		if !c.isLease {
			if c.subnet, c.subnet6, bad = parseLeaseKey(key); bad != nil {
				return
			}
		}
		all = append(all, c)
	})
	return all, l, err
}

// isOf reports whether the claim is that of the node at an address, however bad
// the rest of its value.
func (c claim) isOf(node netip.Addr) bool {
	if c.isLease {
		return slices.Contains(c.nodes[:], node)
	}
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
