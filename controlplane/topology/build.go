// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Lease is what a node's record in etcd says of one family, decoded.
type Lease struct {
	Key    string       // "172.246.0.0-24", dual stack "172.246.0.0-24&2001:db8::-64"
	Subnet netip.Prefix // the zero Prefix where the record has none of this family
	Node   netip.Addr   // flannel's PublicIP or PublicIPv6; the zero Addr where it is missing
	Other  netip.Addr   // of the other family, likewise
	Encap  Encap        // flannel's BackendType
	MAC    MAC          // VtepMAC, in BackendData or BackendV6Data; zero where it is missing
	VNI    uint32       // 0 where the record carries none
	// ZeroChecksum: the node takes vxlan of this family without a UDP checksum. Of IPv4 each does (RFC 7348 section 5).
	ZeroChecksum bool
	Created      int64 // etcd revisions
	Modified     int64
}

// Input is all that Build looks at.
type Input struct {
	Network       netip.Prefix
	Self          Self
	SelfKey       string       // key of this node's own lease
	Public        []netip.Addr // in that lease: Self.Node and Self.Other, or the addresses NAT makes of them
	DirectRouting bool         // no encapsulation between nodes on one link
	Leases        []Lease
	Path          func(node netip.Addr) (Path, error) // the way through the underlay
}

// Build is the desired state of one family for the leases that can be served,
// and what is wrong with the others. Both come in a fixed order, whatever the leases'.
//
// Each lease is judged by itself before it is held against the others, so
// that one that cannot be served takes nothing from them.
func Build(in Input) (State, []Problem) {
	b := builder{in: in}
	b.judge()
	b.findSharedNodes()
	b.refuseOverlaps()
	b.reportSharedNodes()
	s := State{Network: in.Network, Self: in.Self, Peers: make([]Peer, 0, len(b.candidates))}
	for _, c := range b.candidates {
		s.Peers = append(s.Peers, c.peer)
	}
	b.reportSharedMAC(s.Peers)
	slices.SortFunc(b.problems, func(x, y Problem) int {
		return cmp.Or(strings.Compare(x.Key, y.Key), strings.Compare(x.Text, y.Text))
	})
	return s, b.problems
}

type builder struct {
	in         Input
	candidates []*candidate // sorted by key
	problems   []Problem
}

// candidate is a lease that could be served, if it were not for others.
type candidate struct {
	Lease
	peer   Peer
	newest *candidate // of the leases with its PublicIP, the one written last
}

// rank orders leases that overlap: those that their nodes have given up come last.
func (c *candidate) rank() int {
	if c.newest.MAC != c.MAC {
		return 1
	}
	return 0
}

func (c *candidate) sharedNode() string {
	f := familyOf(c.peer.Node)
	return fmt.Sprintf("has the same %s %s as lease %s: two nodes with one address, or an old lease; "+
		"give each node its own %s, or delete the old lease", f.address, c.peer.Node, c.newest.Key, f.flag)
}

func (b *builder) problem(key, text string) {
	b.problems = append(b.problems, Problem{Key: key, Text: text})
}

// judge makes candidates of the leases with which nothing is wrong by themselves.
func (b *builder) judge() {
	for _, l := range b.in.Leases {
		if l.Key == b.in.SelfKey {
			continue
		}
		p, err := b.peer(l)
		if err != nil {
			b.problem(l.Key, err.Error()+"; not served")
			continue
		}
		b.candidates = append(b.candidates, &candidate{Lease: l, peer: p})
	}
	slices.SortFunc(b.candidates, func(x, y *candidate) int { return strings.Compare(x.Key, y.Key) })
}

// peer is what a lease means for the dataplane, or why it cannot be served.
func (b *builder) peer(l Lease) (Peer, error) {
	if err := b.check(l); err != nil {
		return Peer{}, err
	}
	node, err := b.outer(l)
	if err != nil {
		return Peer{}, err
	}
	path, err := b.in.Path(node)
	if err != nil {
		return Peer{}, fmt.Errorf("no way through the underlay to its %s %s: %w", familyOf(node).address, node, err)
	}
	p := Peer{Key: l.Key, Subnet: l.Subnet, Node: node, Encap: l.Encap, Path: path}
	if b.in.DirectRouting && l.Encap != EncapUDP && node == l.Node && path.OnLink(node) {
		p.Encap = EncapNone
	}
	switch {
	case p.Encap == EncapNone && !path.OnLink(node):
		return Peer{}, fmt.Errorf("host-gw needs layer-2 adjacency, but %s is behind the router %s: "+
			"use the backend vxlan or ipip", node, path.NextHop)
	case p.Encap == EncapVXLAN && l.MAC == MAC{}:
		return Peer{}, fmt.Errorf(`has no VtepMAC: restart that node, or write %s {"VtepMAC":…} into its lease`,
			familyOf(l.Subnet.Addr()).data)
	case p.Encap == EncapVXLAN && l.VNI != 0 && l.VNI != b.in.Self.VNI:
		return Peer{}, fmt.Errorf("has VNI %d, the network's is %d: restart that node", l.VNI, b.in.Self.VNI)
	case p.Encap == EncapVXLAN:
		p.VTEP, p.ZeroChecksum = VTEP{MAC: l.MAC, Addr: l.Subnet.Addr()}, l.ZeroChecksum
	}
	return p, nil
}

// check holds a lease against the network and this node.
func (b *builder) check(l Lease) error {
	network, self := b.in.Network, b.in.Self
	switch {
	case l.Subnet.Addr().BitLen() != network.Addr().BitLen():
		return fmt.Errorf("has no %s subnet, which the network has: restart that node, or delete the lease",
			familyOf(network.Addr()).name)
	case !network.Contains(l.Subnet.Addr()) || l.Subnet.Bits() < network.Bits():
		return fmt.Errorf("subnet %s is outside the network %s: delete the lease", l.Subnet, network)
	case l.Subnet != l.Subnet.Masked():
		return fmt.Errorf("subnet %s is misaligned: a /%d begins at %s; delete the lease",
			l.Subnet, l.Subnet.Bits(), l.Subnet.Masked().Addr())
	case l.Subnet.Overlaps(self.Subnet):
		return fmt.Errorf("subnet %s overlaps this node's own %s: delete the lease", l.Subnet, self.Subnet)
	case l.Encap != self.Encap:
		return fmt.Errorf("has backend %q, the network's is %q: restart that node", l.Encap, self.Encap)
	}
	return nil
}

// outer is the address that packets to a lease's node are sent to: that of the
// network's own family, as flannel has it. ipip carries either family in
// either, so where one of the two nodes has no such address it is the other one.
func (b *builder) outer(l Lease) (netip.Addr, error) {
	node, own := l.Node, b.in.Self.Node
	if b.in.Self.Encap == EncapIPIP && (!node.IsValid() || !own.IsValid()) {
		node, own = l.Other, b.in.Self.Other
	}
	f := familyOf(node)
	switch {
	case !node.IsValid():
		return netip.Addr{}, fmt.Errorf("has no %s: restart that node, or delete the lease", familyOf(l.Subnet.Addr()).address)
	case !own.IsValid():
		return netip.Addr{}, fmt.Errorf("has the %s %s, and this node has none: give both nodes an address of the same family", f.address, node)
	case node.Is6() && node.IsLinkLocalUnicast():
		return netip.Addr{}, fmt.Errorf("its %s %s is of one link alone: give that node a global address", f.address, node)
	case node == own || slices.Contains(b.in.Public, node):
		return netip.Addr{}, fmt.Errorf("carries this node's own %s %s: "+
			"if another node uses the address give it its own %s, else delete the old lease", f.address, node, f.flag)
	}
	return node, nil
}

// refuse drops the candidates for which why returns a reason.
func (b *builder) refuse(why func(*candidate) string) {
	b.candidates = slices.DeleteFunc(b.candidates, func(c *candidate) bool {
		reason := why(c)
		if reason != "" {
			b.problem(c.Key, reason+"; not served")
		}
		return reason != ""
	})
}

// findSharedNodes tells each candidate which lease of its node was written last.
func (b *builder) findSharedNodes() {
	newest := make(map[netip.Addr]*candidate, len(b.candidates))
	for _, c := range b.candidates {
		if n, ok := newest[c.peer.Node]; !ok || n.Modified < c.Modified {
			newest[c.peer.Node] = c
		}
	}
	for _, c := range b.candidates {
		c.newest = newest[c.peer.Node]
	}
}

// reportSharedNodes reports leases with one outer address. All are served: what is
// sent by a wrong one goes to the same address as by the right one, and ends there.
func (b *builder) reportSharedNodes() {
	for _, c := range b.candidates {
		if c.newest != c {
			b.problem(c.Key, c.sharedNode())
		}
	}
}

// refuseOverlaps serves, of leases that overlap, the one created first. A lease
// that is not served takes nothing from others, nor does one that its node has
// given up: a newer one has another VTEP MAC.
func (b *builder) refuseOverlaps() {
	claimed := newClaims(b.candidates)
	reasons := map[string]string{}
	byAge := slices.SortedFunc(slices.Values(b.candidates), func(x, y *candidate) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(x.Created, y.Created), strings.Compare(x.Key, y.Key))
	})
	for _, c := range byAge {
		owner, taken := claimed.overlap(c.Subnet)
		switch {
		case !taken:
			claimed.add(c.Subnet, c.Key)
		case c.rank() > 0:
			reasons[c.Key] = c.sharedNode()
		default:
			reasons[c.Key] = fmt.Sprintf("overlaps the older lease %s: delete one of them", owner)
		}
	}
	b.refuse(func(c *candidate) string { return reasons[c.Key] })
}

// reportSharedMAC names peers that the kernel's FDB cannot tell apart, or not from this node.
func (b *builder) reportSharedMAC(peers []Peer) {
	self := b.in.Self
	first := make(map[MAC]*Peer, len(peers))
	first[self.VTEP.MAC] = &Peer{Key: b.in.SelfKey, Node: self.Node}
	for i := range peers {
		p := &peers[i]
		if p.Encap != EncapVXLAN {
			continue
		}
		q, seen := first[p.VTEP.MAC]
		if !seen {
			first[p.VTEP.MAC] = p
		} else if q.Node != p.Node {
			b.problem(p.Key, fmt.Sprintf("has the same VtepMAC %s as lease %s: a cloned machine? give one of them a new machine-id",
				p.VTEP.MAC, q.Key))
		}
	}
}
