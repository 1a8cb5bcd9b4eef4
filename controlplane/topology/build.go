// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Lease is a node's record in etcd, decoded.
type Lease struct {
	Key      string // "172.246.0.0-24"
	Subnet   netip.Prefix
	Node     netip.Addr // flannel's PublicIP
	Encap    Encap      // flannel's BackendType
	MAC      MAC        // VtepMAC; zero where it is missing
	VNI      uint32     // 0 where the record carries none
	Created  int64      // etcd revisions
	Modified int64
}

// Input is all that Build looks at.
type Input struct {
	Network       netip.Prefix
	Self          Self
	SelfKey       string // key of this node's own lease
	DirectRouting bool   // no encapsulation between nodes on one link
	Leases        []Lease
	Path          func(node netip.Addr) (Path, error) // the way through the underlay
}

// Build is the desired state for the leases that can be served, and what is
// wrong with the others. Both come in a fixed order, whatever the leases'.
func Build(in Input) (State, []Problem) {
	b := builder{in: in, leases: slices.Clone(in.Leases)}
	slices.SortFunc(b.leases, func(x, y Lease) int { return strings.Compare(x.Key, y.Key) })
	b.leases = slices.DeleteFunc(b.leases, func(l Lease) bool { return l.Key == in.SelfKey })
	for _, refuse := range []func(){b.refuseOwnAddress, b.refuseOutside, b.refuseOverlaps, b.refuseSharedNode} {
		refuse()
	}
	s := State{Network: in.Network, Self: in.Self}
	for _, l := range b.leases {
		if p, reason := b.peer(l); reason == "" {
			s.Peers = append(s.Peers, p)
		} else {
			b.problem(l.Key, "%s", reason)
		}
	}
	b.reportSharedMAC(s.Peers)
	slices.SortFunc(b.problems, func(x, y Problem) int {
		return cmp.Or(strings.Compare(x.Key, y.Key), strings.Compare(x.Text, y.Text))
	})
	return s, b.problems
}

type builder struct {
	in       Input
	leases   []Lease
	problems []Problem
}

func (b *builder) problem(key, format string, args ...any) {
	b.problems = append(b.problems, Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

// refuse drops the leases for which why returns a reason.
func (b *builder) refuse(why func(Lease) string) {
	b.leases = slices.DeleteFunc(b.leases, func(l Lease) bool {
		reason := why(l)
		if reason != "" {
			b.problem(l.Key, "%s", reason)
		}
		return reason != ""
	})
}

func (b *builder) refuseOwnAddress() {
	b.refuse(func(l Lease) string {
		if l.Node != b.in.Self.Node {
			return ""
		}
		return fmt.Sprintf("carries this node's own PublicIP %s: not served; "+
			"if another node uses the address give it its own --public-ip, else delete the old lease", l.Node)
	})
}

func (b *builder) refuseOutside() {
	b.refuse(func(l Lease) string {
		if b.in.Network.Contains(l.Subnet.Addr()) && l.Subnet.Bits() >= b.in.Network.Bits() {
			return ""
		}
		return fmt.Sprintf("subnet %s is outside the network %s: not served; delete the lease", l.Subnet, b.in.Network)
	})
}

// refuseOverlaps keeps, of leases that overlap, the one created first; of
// overlaps with this node's own subnet, ours.
func (b *builder) refuseOverlaps() {
	own := Lease{Key: b.in.SelfKey, Subnet: b.in.Self.Subnet} // Created 0: older than any
	sorted := append(slices.Clone(b.leases), own)
	slices.SortFunc(sorted, func(x, y Lease) int {
		return cmp.Or(x.Subnet.Addr().Compare(y.Subnet.Addr()), x.Subnet.Bits()-y.Subnet.Bits())
	})
	// A prefix that contains another stands before it, with nothing but its own parts in between.
	with := map[string]string{}
	var open []Lease // contain the current one, and each other
	for _, l := range sorted {
		for len(open) > 0 && !open[len(open)-1].Subnet.Contains(l.Subnet.Addr()) {
			open = open[:len(open)-1]
		}
		for len(open) > 0 && open[len(open)-1].Created > l.Created {
			with[open[len(open)-1].Key] = l.Key
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			with[l.Key] = open[len(open)-1].Key
			continue
		}
		open = append(open, l)
	}
	b.refuse(func(l Lease) string {
		other, lost := with[l.Key]
		if !lost {
			return ""
		}
		return fmt.Sprintf("overlaps the older lease %s: not served; delete one of them", other)
	})
}

// refuseSharedNode reports leases with one PublicIP. Two VTEP MACs on one
// address cannot both be right: the one written last is served.
func (b *builder) refuseSharedNode() {
	newest := map[netip.Addr]Lease{}
	for _, l := range b.leases {
		if n, ok := newest[l.Node]; !ok || n.Modified < l.Modified {
			newest[l.Node] = l
		}
	}
	b.refuse(func(l Lease) string {
		n := newest[l.Node]
		if n.Key == l.Key {
			return ""
		}
		text := fmt.Sprintf("has the same PublicIP %s as lease %s: two nodes with one address, or an old lease; "+
			"give each node its own --public-ip, or delete the old lease", l.Node, n.Key)
		if n.MAC != l.MAC {
			return text + "; not served"
		}
		b.problem(l.Key, "%s", text)
		return ""
	})
}

// reportSharedMAC names peers that cannot be told apart by the kernel's FDB.
func (b *builder) reportSharedMAC(peers []Peer) {
	first := map[MAC]Peer{}
	for _, p := range peers {
		if p.Encap != EncapVXLAN {
			continue
		}
		q, seen := first[p.VTEP.MAC]
		if !seen {
			first[p.VTEP.MAC] = p
		} else if q.Node != p.Node {
			b.problem(p.Key, "has the same VtepMAC %s as lease %s: a cloned machine? give one of them a new machine-id", p.VTEP.MAC, q.Key)
		}
	}
}

// peer is what a lease means for the dataplane, or why it cannot be served.
func (b *builder) peer(l Lease) (Peer, string) {
	self := b.in.Self
	if l.Encap != self.Encap {
		return Peer{}, fmt.Sprintf("has backend %q, the network's is %q: not served; restart that node", l.Encap, self.Encap)
	}
	path, err := b.in.Path(l.Node)
	if err != nil {
		return Peer{}, fmt.Sprintf("no way to its PublicIP %s: %v; not served until the underlay has one", l.Node, err)
	}
	p := Peer{Key: l.Key, Subnet: l.Subnet, Node: l.Node, Encap: l.Encap, Path: path}
	if b.in.DirectRouting && l.Encap != EncapUDP && path.OnLink(l.Node) {
		p.Encap = EncapNone
		return p, ""
	}
	switch l.Encap {
	case EncapNone:
		if !path.OnLink(l.Node) {
			return Peer{}, fmt.Sprintf("host-gw needs layer-2 adjacency, but %s is behind the router %s: "+
				"not served; use the backend vxlan or ipip", l.Node, path.NextHop)
		}
	case EncapVXLAN:
		if l.MAC == (MAC{}) {
			return Peer{}, "has no VtepMAC: not served; restart that node, or write BackendData {\"VtepMAC\":…} into its lease"
		}
		if l.VNI != 0 && l.VNI != self.VNI {
			return Peer{}, fmt.Sprintf("has VNI %d, the network's is %d: not served; restart that node", l.VNI, self.VNI)
		}
		p.VTEP = VTEP{MAC: l.MAC, Addr: l.Subnet.Addr()}
	}
	return p, ""
}
