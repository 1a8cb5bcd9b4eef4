// SPDX-License-Identifier: Apache-2.0

// Package topology turns the records of etcd into what this node's dataplane
// should hold. It is pure: no I/O, no clock; [Follower] alone remembers what it
// was given, to give the same with less work.
package topology

import (
	"net"
	"net/netip"
)

// MAC is an Ethernet address as it stands on the wire. An array, so that it
// compares with == and can be a map key.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Encap names how a packet travels from this node to a peer. The values are
// flannel's BackendType strings.
type Encap string

// The encapsulations bpfnet speaks; EncapNone is flannel's host-gw and what
// DirectRouting falls to between layer-2 neighbours.
const (
	EncapNone  Encap = "host-gw"
	EncapVXLAN Encap = "vxlan"
	EncapIPIP  Encap = "ipip"
	EncapUDP   Encap = "udp"
)

// overheads holds the bytes of the outer headers over IPv4.
var overheads = map[Encap]int{
	EncapVXLAN: 20 + 8 + 8 + 14, // IPv4, UDP, VXLAN, the inner Ethernet header (RFC 7348 section 5)
	EncapIPIP:  20,
	EncapUDP:   20 + 8,
}

// Overhead is what the encapsulation adds to each packet that goes to an outer
// address, bytes: over IPv6 20 more, for its header is 40 bytes (RFC 8200 section 3).
func (e Encap) Overhead(outer netip.Addr) int {
	n := overheads[e]
	if n > 0 && outer.Is6() {
		n += 20
	}
	return n
}

// Path is the way through the underlay to a node.
type Path struct {
	Ifindex  int        // the uplink
	Ethernet bool       // which has Ethernet headers
	NextHop  netip.Addr // the node itself where it is on the link, else the router
	MTU      int        // bytes of IP packet that fit the path, outer header included
}

// OnLink reports whether node is reached without a router in between.
func (p Path) OnLink(node netip.Addr) bool { return p.NextHop == node }

// VTEP is a node's VXLAN tunnel end point.
type VTEP struct {
	MAC  MAC
	Addr netip.Addr // flannel's rule: the first address of the node's subnet
}

// Peer is one lease of another node, as the dataplanes have to serve it.
type Peer struct {
	Key    string       // the lease's key in etcd, "172.246.0.0-24"
	Subnet netip.Prefix // the containers behind it
	Node   netip.Addr   // where packets to it are sent, on the underlay; in ipip not always of Subnet's family
	Encap  Encap
	VTEP   VTEP // set where Encap is EncapVXLAN
	Path   Path
	// ZeroChecksum: over IPv6 it takes vxlan without a UDP checksum (RFC 6935).
	ZeroChecksum bool
}

// Self is what the dataplanes have to know of this node, in one family.
type Self struct {
	Subnet netip.Prefix
	Node   netip.Addr // on the underlay, of Subnet's family; in ipip the zero Addr where it has none
	Other  netip.Addr // likewise of the other family; ipip only
	Uplink int        // ifindex
	Encap  Encap      // the network's backend
	VTEP   VTEP
	VNI    uint32 // 24 bits
	Port   uint16 // UDP destination port of the encapsulation, host byte order; 0 where it has none
	MTU    int    // largest inner IP packet a container may send
}

// MTUTo is the largest inner IP packet that reaches a peer in one piece. By a
// tunnel it is no larger than the network's, though the path may carry more.
func (s Self) MTUTo(p Peer) int {
	if p.Encap == EncapNone {
		return p.Path.MTU
	}
	return min(s.MTU, p.Path.MTU-p.Encap.Overhead(p.Node))
}

// Source is what packets to an outer address are sent from: this node's address
// of its family.
func (s Self) Source(outer netip.Addr) netip.Addr {
	if s.Node.BitLen() == outer.BitLen() {
		return s.Node
	}
	return s.Other
}

// State is the desired state of one family: what is right, whatever the
// dataplane holds now. A dual-stack network has two, that of IPv4 first.
type State struct {
	Network netip.Prefix
	Self    Self
	Peers   []Peer // sorted by Key
}

// Problem is one record that cannot be served as it stands, or only in part.
// It never keeps the other records from being served.
type Problem struct {
	Key  string // the lease's key in etcd; "" where it concerns the whole network
	Text string // what is wrong and what to do, one line
}
