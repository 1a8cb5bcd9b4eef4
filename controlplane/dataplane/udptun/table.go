// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// Peer is another node's subnet.
type Peer struct {
	Subnet netip.Prefix
	Node   netip.Addr // its address on the underlay
}

// table is what a packet is judged by. It is not changed once it is in use.
type table struct {
	local  netip.Prefix // this node's subnet
	routes bart.Table[netip.Addr]
	nodes  map[netip.Addr]bool
}

func newTable(local netip.Prefix, peers []Peer) *table {
	t := &table{local: local, nodes: make(map[netip.Addr]bool, len(peers))}
	for _, p := range peers {
		if !p.Subnet.Addr().Is4() || !p.Node.Is4() {
			continue // until this package speaks IPv6
		}
		t.routes.Insert(p.Subnet, p.Node)
		t.nodes[p.Node] = true
	}
	return t
}

// outbound prepares a packet from the device for the wire and returns the node
// it has to go to.
func (t *table) outbound(b []byte) (netip.Addr, Reason) {
	if !isIPv4(b) {
		return netip.Addr{}, Protocol
	}
	if !wellFormed(b) {
		return netip.Addr{}, Malformed
	}
	p := packet(b)
	node, ok := t.routes.Lookup(p.destination())
	if !ok {
		return netip.Addr{}, NoRoute
	}
	if !p.takeHop() {
		return netip.Addr{}, TTL
	}
	return node, none
}

// inbound prepares a packet from the wire for the device. from and tos are the
// outer header's source and TOS octet.
func (t *table) inbound(b []byte, from netip.Addr, tos byte) Reason {
	if !wellFormed(b) {
		return Malformed
	}
	p := packet(b)
	if r := t.checkSource(p.source(), from); r != none {
		return r
	}
	if !t.local.Contains(p.destination()) {
		return NotLocal
	}
	if !p.mergeECN(tos) {
		return ECN
	}
	if !p.takeHop() {
		return TTL
	}
	return none
}

// checkSource allows a node the addresses of its subnets and its own: its stack
// answers a container by that one.
func (t *table) checkSource(inner, outer netip.Addr) Reason {
	if node, ok := t.routes.Lookup(inner); ok && node == outer {
		return none
	}
	if !t.nodes[outer] {
		return UnknownHost
	}
	if inner != outer {
		return SpoofedSource
	}
	return none
}
