// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/bpf"
)

// IPv6 addresses, named by whose they are.
var (
	nodeV6      = netip.MustParseAddr("2001:db8:32::245")
	peerV6      = netip.MustParseAddr("2001:db8:32::246")
	thirdV6     = netip.MustParseAddr("2001:db8:32::247")
	fourthV6    = netip.MustParseAddr("2001:db8:32::249")
	fifthV6     = netip.MustParseAddr("2001:db8:32::250")
	sixthV6     = netip.MustParseAddr("2001:db8:32::251")
	strangerV6  = netip.MustParseAddr("2001:db8:32::66")
	containerV6 = netip.MustParseAddr("fd00:42:0:245::2")
	secondV6    = netip.MustParseAddr("fd00:42:0:245::3") // a container at link2
	newbornV6   = netip.MustParseAddr("fd00:42:0:245::77")
	remoteV6    = netip.MustParseAddr("fd00:42:0:246::2")
	remote3V6   = netip.MustParseAddr("fd00:42:0:247::2")
	noLeaseV6   = netip.MustParseAddr("fd00:42:0:e99::1")
	internetV6  = netip.MustParseAddr("2606:4700::1111")
	linkLocalV6 = netip.MustParseAddr("fe80::2")
	allNodes    = netip.MustParseAddr("ff02::1")
	allMLDv2    = netip.MustParseAddr("ff02::16")
	unspecified = netip.IPv6Unspecified()

	subnetV6   = netip.MustParsePrefix("fd00:42:0:245::/64")
	peerNetV6  = netip.MustParsePrefix("fd00:42:0:246::/64")
	thirdNetV6 = netip.MustParsePrefix("fd00:42:0:247::/64")
)

// dual is the lab with IPv6 besides: every tunnel over and of either version, but udp, which knows IPv4 alone.
var dual = lab.with("dual", func(w *world) {
	w.udpPort = 0
	w.useIPv6, w.node6, w.overlay6 = true, nodeV6, overlay6
	w.slots6, w.slotBits6 = netip.MustParsePrefix("fd00:42::/48"), 64
	w.hosts = maps.Clone(peers)
	maps.Copy(w.hosts, peersV6)
	w.routes = slices.Concat(w.routes, routesV6)
	w.endpoints = slices.Concat(w.endpoints, endpointsV6)
})

// Behind peers of either version are subnets of either.
var peersV6 = map[uint32]host{
	12: {node: peerV6, carries: ipv6, mtu: 1430, encap: bpf.DatapathEncapENCAP_VXLAN, vtep: vtep2, ttl: 64},
	13: {node: thirdV6, carries: ipv6, mtu: 1460, encap: bpf.DatapathEncapENCAP_IPIP, label: true},
	14: {node: node3, carries: ipv6, mtu: 1480, encap: bpf.DatapathEncapENCAP_IPIP, df: true},
	15: {node: fourthV6, carries: ipv6, mtu: 1500, encap: bpf.DatapathEncapENCAP_NONE},
	16: {node: fifthV6, carries: ipv6, mtu: 1400, encap: bpf.DatapathEncapENCAP_IPIP, ttl: 17, tos: 0xb8},
	17: {node: sixthV6, carries: ipv6, mtu: 1400, encap: bpf.DatapathEncapENCAP_VXLAN, vtep: vtep7, ttl: 255, tos: 0xb8, unsummed: true},
	18: {node: thirdV6, carries: ipv4, mtu: 1460, encap: bpf.DatapathEncapENCAP_IPIP, label: true},
	19: {node: fifthV6, carries: ipv4, mtu: 1400, encap: bpf.DatapathEncapENCAP_IPIP, ttl: 17, tos: 0xb8},
	20: {node: node6, carries: ipv6, mtu: 1300, encap: bpf.DatapathEncapENCAP_IPIP, ttl: 17, tos: 0x28},
}

var routesV6 = []route{
	{0, subnetV6, self},
	{0, peerNetV6, 12},
	{0, thirdNetV6, 13},
	{0, netip.MustParsePrefix("fd00:42:0:248::/64"), 14},
	{0, netip.MustParsePrefix("fd00:42:0:249::/64"), 15},
	{0, netip.MustParsePrefix("fd00:42:0:250::/64"), 16},
	{0, netip.MustParsePrefix("fd00:42:0:251::/64"), 17},
	{0, netip.MustParsePrefix("fd00:42:0:252::/64"), 20},
	{0, netip.MustParsePrefix("fd00:42:0:300::/64"), 12},
	{0, netip.MustParsePrefix("fd00:42:0:300:8000::/66"), 13}, // inside the other
	{0, netip.MustParsePrefix("fd00:99::/32"), 12},            // outside the index
	{0, netip.MustParsePrefix("fd00:42:0:200::/64"), 1 << 20}, // which hosts does not have
	{0, netip.MustParsePrefix("172.244.12.0/24"), 18},
	{0, netip.MustParsePrefix("172.244.13.0/24"), 19},
}

var endpointsV6 = []endpoint{
	{0, containerV6, link1.ifindex, c1MAC, bridgeMAC},
	{0, secondV6, link2.ifindex, c2MAC, bridgeMAC},
	{0, remoteV6.Next(), link2.ifindex, c2MAC, bridgeMAC}, // in a peer's subnet: not looked for
}

// deep serves network 7 of IPv6 alone, by VXLAN. Its index begins, and its slots are told apart, in an address's
// lower half.
var deep = &world{
	name:      "deep",
	network:   7,
	uplink:    uplink,
	overlay:   overlay,
	vxlanPort: 4789,
	vni:       0xabcdef,
	useIPv6:   true,
	node6:     nodeV6,
	overlay6:  overlay6,
	slots6:    netip.MustParsePrefix("fd00:42:0:246:4000::/66"),
	slotBits6: 80,
	hosts:     map[uint32]host{self: {node: nodeV6}, 12: peersV6[12], 15: peersV6[15], 17: peersV6[17]},
	routes: []route{
		{7, netip.MustParsePrefix("fd00:42:0:246:4245::/80"), self},
		{7, netip.MustParsePrefix("fd00:42:0:246:4246::/80"), 12},
		{7, netip.MustParsePrefix("fd00:42:0:246:4251::/80"), 17},
		{7, netip.MustParsePrefix("fd00:42:0:246:4249::/80"), 15},
		{7, netip.MustParsePrefix("fd00:42:0:246:4000::/80"), 12},      // the first slot
		{7, netip.MustParsePrefix("fd00:42:0:246:7fff::/80"), 17},      // the last
		{7, netip.MustParsePrefix("fd00:42:0:246:4251:8000::/82"), 12}, // inside another
		{7, netip.MustParsePrefix("fd00:42:0:246::/66"), 17},           // before the index
		{7, netip.MustParsePrefix("fd00:42:0:246:8000::/80"), 12},      // behind it
		{0, netip.MustParsePrefix("fd00:42:0:e99::/64"), 12},           // of another network
	},
	endpoints: []endpoint{
		{7, netip.MustParseAddr("fd00:42:0:246:4245::2"), link1.ifindex, c1MAC, bridgeMAC},
		{7, netip.MustParseAddr("fd00:42:0:246:4245::3"), link2.ifindex, c2MAC, bridgeMAC},
		{0, netip.MustParseAddr("fd00:42:0:246:4245::77"), link1.ifindex, c1MAC, bridgeMAC},
	},
}

// More of dual: where packets that conntrack translates are the kernel's, where it cannot be asked; with XDP on
// the uplink; of a node with an address of one version alone; without any tunnel.
var (
	dualNatted = dual.with("dual, natted", func(w *world) { w.nat, w.conntrack = bpf.DatapathNatModeNAT_CONNTRACK, true })
	dualBlind  = dual.with("dual, blind", func(w *world) { w.nat = bpf.DatapathNatModeNAT_CONNTRACK })
	dualNative = dual.with("dual, native", func(w *world) { w.uplinkMAC, w.wireMAC = uplink.mac, wireMAC })
	dualSpread = dualNative.with("dual, spread", func(w *world) { w.spread = 1 })
	dualShy    = dual.with("dual, generic", func(w *world) { w.uplinkMAC, w.vxlanPort = uplink.mac, 4789 })
	onlyIPv4   = dual.with("nodes of IPv4", func(w *world) {
		w.node6, w.vxlanPort, w.direct, w.slots6 = netip.Addr{}, 0, false, netip.Prefix{}
		w.keep(func(h host) bool { return h.node.Is4() })
	})
	onlyIPv6 = dual.with("nodes of IPv6", func(w *world) {
		w.node, w.vxlanPort, w.direct = netip.Addr{}, 0, false
		w.keep(func(h host) bool { return h.node.Is6() })
	})
	direct6 = dual.with("host-gw alone", func(w *world) {
		w.vxlanPort, w.ipip = 0, false
		w.keep(func(h host) bool { return h.encap == bpf.DatapathEncapENCAP_NONE })
	})
)

// keep leaves the world those peers, and the routes that do not lead to others.
func (w *world) keep(reached func(host) bool) {
	all := w.hosts
	w.hosts = map[uint32]host{self: all[self]}
	for index, h := range all {
		if index != self && reached(h) {
			w.hosts[index] = h
		}
	}
	w.routes = slices.DeleteFunc(slices.Clone(w.routes), func(r route) bool {
		_, kept := w.hosts[r.host]
		_, known := all[r.host]
		return known && !kept
	})
}

var (
	dualWorlds     = []*world{dual, deep, dualNatted, onlyIPv4}
	moreDualWorlds = []*world{dualBlind, dualNative, dualSpread, onlyIPv6, direct6}
)
