// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
)

// claims is a set of prefixes that do not overlap, with the key of the lease that each is of. A look
// costs as many steps as there are prefix lengths, mostly one, whatever the
// number of prefixes.
type claims struct {
	lengths []int                   // that prefixes may have, ascending
	owners  map[netip.Prefix]string // of the claimed prefixes
	inside  map[netip.Prefix]string // an owner, by prefixes that contain a claimed one
}

// newClaims is an empty set for the subnets of these candidates.
func newClaims(candidates []*candidate) *claims {
	seen := map[int]bool{}
	for _, c := range candidates {
		seen[c.Subnet.Bits()] = true
	}
	return &claims{
		lengths: slices.Sorted(maps.Keys(seen)),
		owners:  make(map[netip.Prefix]string, len(candidates)),
		inside:  map[netip.Prefix]string{},
	}
}

// add claims a prefix that overlaps none so far.
func (c *claims) add(p netip.Prefix, owner string) {
	c.owners[p] = owner
	for wider := range c.wider(p) {
		c.inside[wider] = owner
	}
}

// overlap is the owner of a claimed prefix that overlaps p, if there is one.
func (c *claims) overlap(p netip.Prefix) (owner string, ok bool) {
	if owner, ok = c.owners[p]; ok {
		return owner, true
	}
	if owner, ok = c.inside[p]; ok {
		return owner, true
	}
	for wider := range c.wider(p) {
		if owner, ok = c.owners[wider]; ok {
			return owner, true
		}
	}
	return "", false
}

// wider yields the prefixes that contain p, of each shorter length.
func (c *claims) wider(p netip.Prefix) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, bits := range c.lengths {
			if bits >= p.Bits() || !yield(netip.PrefixFrom(p.Addr(), bits).Masked()) {
				return
			}
		}
	}
}
