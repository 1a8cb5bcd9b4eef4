// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Follower is [Build] for inputs that follow one another, mostly with a lease or
// two between them. What it gives is what Build would, but judged anew are only
// the leases that differ, with those linked to them: by subnets that overlap, an
// address of the node's or a MAC. On no other lease does it depend what becomes
// of one. The zero Follower has built nothing yet. Not for concurrent use.
type Follower struct {
	in       Input
	state    State // Peers is nil before the first
	problems []Problem
	astray   map[netip.Addr]bool // nodes that Path knew no way to: it is asked again each time
}

// few is how many leases may be judged anew: each of the others is held against each of these, and where
// there are many, to judge all is as fast.
const few = 32

// Build is the package's Build. The leases must be sorted by Key and are kept, as
// is what is returned: neither may be written to.
func (f *Follower) Build(in Input) (State, []Problem) {
	keys, leases, ok := f.differing(in)
	if ok && len(keys) == 0 {
		f.in = in
		return f.state, f.problems
	}
	f.in, f.astray = in, map[netip.Addr]bool{}
	in.Path = func(node netip.Addr) (Path, error) {
		p, err := f.in.Path(node)
		if err != nil {
			f.astray[node] = true
		}
		return p, err
	}
	if !ok {
		f.state, f.problems = Build(in)
		return f.state, f.problems
	}
	in.Leases = leases
	s, problems := Build(in)
	f.state.Peers = replace(f.state.Peers, keys, s.Peers, func(p *Peer) string { return p.Key })
	f.problems = replace(f.problems, keys, problems, func(p *Problem) string { return p.Key })
	return f.state, f.problems
}

// Doubt has the next Build look at all leases: Path may say other things than it did.
func (f *Follower) Doubt() { *f = Follower{} }

// differing is the leases to be judged anew, and the keys, sorted, of which all is
// replaced by what they give; ok is false where everything has to be looked at.
func (f *Follower) differing(in Input) (keys []string, leases []Lease, ok bool) {
	if f.state.Peers == nil || !f.in.like(in) {
		return nil, nil, false
	}
	was, is, same := split(f.in.Leases, in.Leases, leaseKey)
	l := links{nodes: slices.Collect(maps.Keys(f.astray))}
	l.add(was)
	l.add(is)
	for len(was)+len(is) <= few && len(f.astray) <= few {
		var with []Lease
		if with, same = l.take(in.Leases, same); len(with) == 0 {
			return keysOf(was, is), is, true
		}
		l.add(with) // who may be linked to yet others
		is = append(is, with...)
	}
	return nil, nil, false
}

func keysOf(was, is []Lease) (keys []string) {
	for _, l := range slices.Concat(was, is) {
		keys = append(keys, l.Key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// like reports whether two inputs differ in their leases, and ways there, alone.
func (in Input) like(other Input) bool {
	return in.Network == other.Network && in.Self == other.Self && in.SelfKey == other.SelfKey &&
		slices.Equal(in.Public, other.Public) && in.DirectRouting == other.DirectRouting
}

func leaseKey(l *Lease) string { return l.Key }

// links is by what leases may be linked to some: few, so lists are faster than maps.
type links struct {
	nodes   []netip.Addr
	macs    []MAC
	subnets []netip.Prefix
}

func (l *links) add(leases []Lease) {
	for _, lease := range leases {
		if lease.Subnet.IsValid() {
			l.subnets = append(l.subnets, lease.Subnet)
		}
		for _, node := range []netip.Addr{lease.Node, lease.Other} {
			if node.IsValid() {
				l.nodes = append(l.nodes, node)
			}
		}
		if lease.MAC != (MAC{}) {
			l.macs = append(l.macs, lease.MAC)
		}
	}
}

func (l *links) has(lease *Lease) bool {
	return slices.Contains(l.macs, lease.MAC) || slices.Contains(l.nodes, lease.Node) ||
		slices.Contains(l.nodes, lease.Other) || slices.ContainsFunc(l.subnets, lease.Subnet.Overlaps)
}

// take parts those of some leases, by their places, that are linked from the others.
func (l *links) take(leases []Lease, some []int) (with []Lease, others []int) {
	others = slices.DeleteFunc(some, func(i int) bool {
		linked := l.has(&leases[i])
		if linked {
			with = append(with, leases[i])
		}
		return linked
	})
	return with, others
}

// replace is all, sorted by key, with what it has of some keys replaced. Keys and with are sorted, too.
func replace[T any](all []T, keys []string, with []T, key func(*T) string) []T {
	replaced := make([]T, 0, len(all)+len(with))
	for _, k := range keys {
		at, _ := slices.BinarySearchFunc(all, k, func(v T, k string) int { return strings.Compare(key(&v), k) })
		replaced, all = append(replaced, all[:at]...), all[at:]
		for len(all) > 0 && key(&all[0]) == k {
			all = all[1:]
		}
		for len(with) > 0 && key(&with[0]) == k {
			replaced, with = append(replaced, with[0]), with[1:]
		}
	}
	return append(replaced, all...)
}
