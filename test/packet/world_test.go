// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// world is what one node holds: its settings and what its maps say, before any
// thought of how it is laid out in them. The model reads it, and a machine is
// filled from it.
type world struct {
	name      string
	node      netip.Addr // of IPv4; invalid: none
	network   uint32     // of the containers the programs serve
	uplink    link       // what hosts entries send by
	overlay   link       // for what comes out of tunnels over IPv4
	vxlanPort uint16     // host byte order; 0: no VXLAN
	vni       uint32
	udpPort   uint16 // host byte order; 0: no udp
	ipip      bool
	direct    bool
	uplinkMAC topology.MAC // of frames that fromWire looks at; zero: it is not in use
	wireMAC   topology.MAC // that it puts on what it decapsulates; zero: it leaves that to tc
	spread    uint8        // CPUs, from 0 on, that it spreads IPIP over: CPU 0 alone has a queue
	conntrack bool         // the programs can ask the kernel's conntrack
	nat       bpf.DatapathNatMode
	slots     netip.Prefix // what route_index covers; invalid: nothing
	slotBits  int          // prefix length of a slot
	routes    []route
	hosts     map[uint32]host
	endpoints []endpoint

	useIPv6   bool       // by containers or nodes
	node6     netip.Addr // invalid: none
	overlay6  link       // for what comes out of tunnels over IPv6
	slots6    netip.Prefix
	slotBits6 int
}

// link is a network device of the node under test.
type link struct {
	name    string
	ifindex uint32
	mac     topology.MAC
}

type route struct {
	network uint32
	prefix  netip.Prefix
	host    uint32
}

// host is a peer, with the packets of one version that go there. The outer header is made from it.
type host struct {
	node      netip.Addr
	carries   version // 0: ipv4
	mtu       uint16  // of the inner packet
	encap     bpf.DatapathEncap
	vtep      topology.MAC
	ttl       uint8 // of the outer header; 0: that of the inner packet
	tos       uint8 // of the outer header, its ECN bits zero
	df        bool  // always in the outer header
	inheritDF bool  // in the outer header where the inner one has it
	label     bool  // entropy as the outer flow label
	unsummed  bool  // takes VXLAN over IPv6 without a UDP checksum
}

type endpoint struct {
	network uint32
	addr    netip.Addr
	ifindex uint32
	mac     topology.MAC
	gateway topology.MAC
}

// Numbers of devices are those TestMain asks the kernel for.
var (
	uplink   = link{"uplink", 11, topology.MAC{0x02, 0, 0, 0, 1, 0xfe}}
	overlay  = link{"bpfnet0", 12, topology.MAC{0xc6, 0, 0, 0, 1, 0}}
	link1    = link{"c1", 13, topology.MAC{0x02, 0, 0, 0, 1, 0x12}}
	link2    = link{"c2", 14, topology.MAC{0x02, 0, 0, 0, 1, 0x13}}
	overlay6 = link{"bpfnet0-v6", 15, topology.MAC{0xc6, 0, 0, 0, 1, 6}}
	allLinks = []link{uplink, overlay, link1, link2, overlay6}
)

func linkAt(ifindex uint32) link {
	for _, l := range allLinks {
		if l.ifindex == ifindex {
			return l
		}
	}
	return link{}
}

// MACs: of the containers, of what they take for their gateway, of the peers.
var (
	bridgeMAC = topology.MAC{0x02, 0, 0, 0, 1, 1}
	c1MAC     = topology.MAC{0x02, 0, 0, 0, 1, 2}
	c2MAC     = topology.MAC{0x02, 0, 0, 0, 1, 3}
	routerMAC = topology.MAC{0x02, 0, 0, 0, 9, 9} // what the uplink's frames come from
	vtep2     = topology.MAC{0xc6, 0, 0, 0, 2, 0}
	vtep7     = topology.MAC{0xc6, 0, 0, 0, 7, 0}
	broadcast = topology.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	multicast = topology.MAC{0x01, 0, 0x5e, 0, 0, 1}
	wireMAC   = topology.MAC{0x02, 0xb9, 0x31, 0x41, 0x59, 0x26} // that from_wire uses
)

// Addresses, named by whose they are.
var (
	node1    = netip.MustParseAddr("192.168.32.245")
	node2    = netip.MustParseAddr("192.168.32.246")
	node3    = netip.MustParseAddr("192.168.32.247")
	node4    = netip.MustParseAddr("192.168.32.248")
	node5    = netip.MustParseAddr("192.168.32.249")
	node6    = netip.MustParseAddr("192.168.32.250")
	node7    = netip.MustParseAddr("192.168.32.251")
	stranger = netip.MustParseAddr("192.168.32.66")   // no node
	vtepAddr = netip.MustParseAddr("172.245.0.0")     // of bpfnet0
	bridge   = netip.MustParseAddr("172.245.0.1")     // host 1's own address in its subnet
	c1       = netip.MustParseAddr("172.245.0.2")     //
	c2       = netip.MustParseAddr("172.245.0.3")     //
	newborn  = netip.MustParseAddr("172.245.0.77")    // a container not learned yet
	remote2  = netip.MustParseAddr("172.246.0.2")     // a container of host 2, and so on
	remote3  = netip.MustParseAddr("172.247.0.2")     //
	remote4  = netip.MustParseAddr("172.244.8.2")     //
	remote5  = netip.MustParseAddr("172.244.9.2")     //
	remote6  = netip.MustParseAddr("172.244.10.2")    //
	remote7  = netip.MustParseAddr("172.244.11.2")    //
	nested3  = netip.MustParseAddr("172.246.1.70")    // host 3's /26 inside a /24 of host 2
	nested2  = netip.MustParseAddr("172.246.1.2")     // beside it
	outside2 = netip.MustParseAddr("10.99.1.2")       // host 2's, outside the index
	nowhere  = netip.MustParseAddr("172.244.200.1")   // routed to a number that hosts does not have
	noLease  = netip.MustParseAddr("172.244.77.1")    // of the network, nobody's
	internet = netip.MustParseAddr("93.184.216.34")   //
	group    = netip.MustParseAddr("224.0.0.251")     // multicast
	everyone = netip.MustParseAddr("172.245.0.255")   // the subnet's broadcast
	zeroAddr = netip.MustParseAddr("0.0.0.0")         //
	lastAddr = netip.MustParseAddr("255.255.255.255") //
)

const self = uint32(bpf.DatapathHostIndexHOST_SELF)

// lab has every encapsulation at once, and an index in front of its routes.
var lab = &world{
	name:      "lab",
	node:      node1,
	uplink:    uplink,
	overlay:   overlay,
	vxlanPort: 8472,
	vni:       1,
	udpPort:   8285,
	ipip:      true,
	direct:    true,
	slots:     netip.MustParsePrefix("172.244.0.0/14"),
	slotBits:  24,
	routes:    routesOf(0),
	hosts:     peers,
	endpoints: endpointsOf(0),
}

// second serves network 7, VXLAN only, without an index. What it holds of network 0 is for other programs.
var second = &world{
	name:      "second",
	node:      node1,
	network:   7,
	uplink:    uplink,
	overlay:   overlay,
	vxlanPort: 4789,
	vni:       0xabcdef,
	routes: append(routesOf(7),
		route{0, netip.MustParsePrefix("172.246.0.0/24"), 3},
		route{0, netip.MustParsePrefix("172.244.0.0/14"), self}),
	hosts: peers,
	endpoints: append(endpointsOf(7),
		endpoint{0, c1, link2.ifindex, c2MAC, bridgeMAC},
		endpoint{0, newborn, link2.ifindex, c2MAC, bridgeMAC}),
}

// bare has nothing switched on: the node is in no overlay but knows containers and peers.
var bare = &world{
	name:      "bare",
	node:      node1,
	uplink:    uplink,
	routes:    routesOf(0),
	hosts:     peers,
	endpoints: endpointsOf(0),
}

// natted is the lab on a node that translates connections: those of translations.
var natted = lab.with("natted", func(w *world) { w.nat, w.conntrack = bpf.DatapathNatModeNAT_CONNTRACK, true })

// blind is the same on a kernel whose conntrack cannot be asked.
var blind = lab.with("blind", func(w *world) { w.nat = bpf.DatapathNatModeNAT_CONNTRACK })

// untold is the lab on a node where something other than conntrack translates.
var untold = lab.with("untold", func(w *world) { w.nat, w.conntrack = bpf.DatapathNatModeNAT_OTHER, true })

func (w *world) with(name string, change func(*world)) *world {
	other := *w
	other.name = name
	change(&other)
	return &other
}

var worlds = []*world{lab, second, bare, natted, blind}

// peers have outer headers as flannel's backends send them; those of hosts 6 and 7 have what else a
// kernel's tunnel device can be told. The node itself has an entry that nothing is sent by.
var peers = map[uint32]host{
	self: {node: node1},
	2:    {node: node2, mtu: 1450, encap: bpf.DatapathEncapENCAP_VXLAN, vtep: vtep2, ttl: 64},
	3:    {node: node3, mtu: 1480, encap: bpf.DatapathEncapENCAP_IPIP, inheritDF: true},
	4:    {node: node4, mtu: 1472, encap: bpf.DatapathEncapENCAP_UDP, ttl: 64, df: true},
	5:    {node: node5, mtu: 1500, encap: bpf.DatapathEncapENCAP_NONE},
	6:    {node: node6, mtu: 1480, encap: bpf.DatapathEncapENCAP_IPIP, ttl: 17, df: true, inheritDF: true},
	7:    {node: node7, mtu: 1400, encap: bpf.DatapathEncapENCAP_VXLAN, vtep: vtep7, ttl: 255, tos: 0xb8, df: true},
}

func routesOf(network uint32) []route {
	return []route{
		{network, netip.MustParsePrefix("172.245.0.0/24"), self},
		{network, netip.MustParsePrefix("172.246.0.0/24"), 2},
		{network, netip.MustParsePrefix("172.247.0.0/24"), 3},
		{network, netip.MustParsePrefix("172.244.8.0/24"), 4},
		{network, netip.MustParsePrefix("172.244.9.0/24"), 5},
		{network, netip.MustParsePrefix("172.244.10.0/24"), 6},
		{network, netip.MustParsePrefix("172.244.11.0/24"), 7},
		{network, netip.MustParsePrefix("172.246.1.0/24"), 2},
		{network, netip.MustParsePrefix("172.246.1.64/26"), 3},
		{network, netip.MustParsePrefix("10.99.0.0/16"), 2},
		{network, netip.MustParsePrefix("172.244.200.0/24"), 1 << 20},
	}
}

func endpointsOf(network uint32) []endpoint {
	return []endpoint{
		{network, c1, link1.ifindex, c1MAC, bridgeMAC},
		{network, c2, link2.ifindex, c2MAC, bridgeMAC},
		{network, nested2, link2.ifindex, c2MAC, bridgeMAC}, // in a peer's subnet: not looked for
	}
}
