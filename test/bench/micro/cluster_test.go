// SPDX-License-Identifier: Apache-2.0

package micro

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The cluster that is measured with: node n has the nth /28 of 10.0.0.0/8,
// which has room for a million of them, and the nth address of 11.0.0.0/8.
var network = netip.MustParsePrefix("10.0.0.0/8")

const (
	subnetLen = 28
	vni       = 1
	vxlanPort = 8472
	uplink    = 1 // lo: BPF_PROG_TEST_RUN's device, there in every namespace
)

func ipv4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func subnetOf(node int) netip.Prefix {
	return netip.PrefixFrom(ipv4(10<<24+uint32(node)<<(32-subnetLen)), subnetLen)
}

func nodeAddr(node int) netip.Addr { return ipv4(11<<24 + uint32(node)) }

func vtepMAC(node int) topology.MAC {
	return topology.MAC{0xc6, 0, byte(node >> 24), byte(node >> 16), byte(node >> 8), byte(node)}
}

// peer is node n, 1 and up, as node 0 serves it.
func peer(n int) topology.Peer {
	subnet := subnetOf(n)
	return topology.Peer{
		Key: fmt.Sprintf("%v-%d", subnet.Addr(), subnetLen), Subnet: subnet, Node: nodeAddr(n), Encap: topology.EncapVXLAN,
		VTEP: topology.VTEP{MAC: vtepMAC(n), Addr: subnet.Addr()},
		Path: topology.Path{Ifindex: uplink, Ethernet: true, NextHop: nodeAddr(n), MTU: 1500},
	}
}

// state is what node 0 serves in a cluster with that many peers.
func state(peers int) topology.State {
	s := topology.State{
		Network: network,
		Self: topology.Self{
			Subnet: subnetOf(0), Node: nodeAddr(0), Uplink: uplink, Encap: topology.EncapVXLAN,
			VTEP: topology.VTEP{MAC: vtepMAC(0), Addr: subnetOf(0).Addr()}, VNI: vni, Port: vxlanPort, MTU: 1450,
		},
		Peers: make([]topology.Peer, peers),
	}
	for i := range s.Peers {
		s.Peers[i] = peer(i + 1)
	}
	return s
}
