// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

const natNone = bpf.DatapathNatModeNAT_NONE

// tunnelV6 is a way to a peer in which IPv6 is inside, outside, or both.
type tunnelV6 struct {
	name        string
	encap       topology.Encap
	inner       int // version
	node, third netip.Addr
	self        netip.Addr // at which this node is reached
	nat         bpf.DatapathNatMode
	zero        bool // the peers take VXLAN without a UDP checksum
}

var (
	vxlanV6  = tunnelV6{"vxlan", topology.EncapVXLAN, 6, peerV6, thirdV6, nodeV6, natNone, false}
	sixInSix = tunnelV6{"6in6", topology.EncapIPIP, 6, peerV6, thirdV6, nodeV6, natNone, false}
	sixIn4   = tunnelV6{"6in4", topology.EncapIPIP, 6, node2, node3, node1, natNone, false}
	fourIn6  = tunnelV6{"4in6", topology.EncapIPIP, 4, peerV6, thirdV6, nodeV6, natNone, false}
	directV6 = tunnelV6{"host-gw", topology.EncapNone, 6, peerV6, thirdV6, nodeV6, natNone, false}

	tunnelsV6 = []tunnelV6{vxlanV6, sixInSix, sixIn4, fourIn6}
)

// Whose addresses are inside.
func (tun tunnelV6) remote() netip.Addr    { return tun.pick(remoteV6, remote2) }
func (tun tunnelV6) remote3() netip.Addr   { return tun.pick(remote3V6, remote3) }
func (tun tunnelV6) container() netip.Addr { return tun.pick(containerV6, c1) }
func (tun tunnelV6) newborn() netip.Addr   { return tun.pick(newbornV6, newborn) }
func (tun tunnelV6) outside() netip.Addr   { return tun.pick(internetV6, internet) }

func (tun tunnelV6) pick(v6, v4 netip.Addr) netip.Addr {
	if tun.inner == 6 {
		return v6
	}
	return v4
}

func (tun tunnelV6) etherType() layers.EthernetType { return etherTypeOf(tun.inner) }

func etherTypeOf(version int) layers.EthernetType {
	if version == 6 {
		return layers.EthernetTypeIPv6
	}
	return layers.EthernetTypeIPv4
}

// network is what the node knows by the tunnel: two peers.
func (tun tunnelV6) network() (topology.State, dataplane.Network) {
	network, bits := netip.MustParsePrefix("fd00:42::/48"), 64
	subnets := []netip.Prefix{subnetV6, peerNetV6, thirdNetV6}
	self := topology.Self{Node: nodeV6, Other: node1}
	if tun.inner == 4 {
		network, bits = netip.MustParsePrefix("172.244.0.0/14"), 24
		subnets = []netip.Prefix{
			netip.MustParsePrefix("172.245.0.0/24"), netip.MustParsePrefix("172.246.0.0/24"), netip.MustParsePrefix("172.247.0.0/24"),
		}
		self = topology.Self{Node: node1, Other: nodeV6}
	}
	self.Subnet, self.Uplink, self.Encap, self.VNI, self.MTU = subnets[0], int(uplink.ifindex), tun.encap, 1, 1430
	self.VTEP = topology.VTEP{MAC: overlay.mac, Addr: subnets[0].Addr()}
	if tun.encap == topology.EncapVXLAN {
		self.Port = 8472
	}
	s := topology.State{Network: network, Self: self}
	for i, node := range []netip.Addr{tun.node, tun.third} {
		s.Peers = append(s.Peers, topology.Peer{
			Key: node.String(), Subnet: subnets[i+1], Node: node, Encap: tun.encap,
			VTEP:         topology.VTEP{MAC: []topology.MAC{vtep2, vtep7}[i], Addr: subnets[i+1].Addr()},
			Path:         topology.Path{Ifindex: int(uplink.ifindex), NextHop: node, MTU: 1500},
			ZeroChecksum: tun.zero,
		})
	}
	return s, dataplane.Network{
		Self: self, Prefix: network, SubnetLen: bits, Overlay: dataplane.Overlay{Ifindex: int(overlay.ifindex), MAC: overlay.mac},
	}
}

// machine is a node with two peers by the tunnel, and two containers of the inner family.
func (tun tunnelV6) machine(t *testing.T) *machine {
	t.Helper()
	return machineOf(t, tun)
}

// machineOf has a network of each, whose inner families differ: IPv4 first. XDP is native, which from_network does
// not care about.
func machineOf(t *testing.T, tunnels ...tunnelV6) *machine {
	t.Helper()
	return machineWith(t, native, tunnels...)
}

// machineWith has XDP as the world.
func machineWith(t *testing.T, w *world, tunnels ...tunnelV6) *machine {
	t.Helper()
	var states []topology.State
	var networks []dataplane.Network
	var all []containers.Endpoint
	for _, tun := range tunnels {
		state, network := tun.network()
		states, networks = append(states, state), append(networks, network)
		all = append(all,
			containers.Endpoint{Addr: tun.container(), Ifindex: int(link1.ifindex), MAC: c1MAC, Gateway: bridgeMAC},
			containers.Endpoint{Addr: tun.pick(secondV6, c2), Ifindex: int(link2.ifindex), MAC: c2MAC, Gateway: bridgeMAC})
	}
	settings := dataplane.Settings(false, networks...)
	settings.Conntrack = 1
	w.setXDP(&settings)
	m, err := emptyMachine(lab, &settings)
	must(t, err)
	t.Cleanup(func() { closeMachine(t, m) })
	must(t, m.collection.Maps[bpf.DatapathMapNat].Put(uint32(0), tunnels[0].nat))
	must(t, w.fillCPUs(m.collection.Maps))
	set, err := maps.NewSet(m.collection.Maps)
	must(t, err)
	d, err := dataplane.New(set, 0, 1)
	must(t, err)
	must(t, d.Apply(states...))
	endpoints, err := dataplane.NewEndpoints(set, 0)
	must(t, err)
	must(t, endpoints.Apply(all))
	return m
}

// wrap is an inner packet as a peer sends it, outer IP header and on.
func (tun tunnelV6) wrap(src netip.Addr, tos uint8, inner []byte) []byte {
	switch {
	case tun.encap == topology.EncapNone:
		return inner
	case tun.encap == topology.EncapVXLAN:
		frame := etherType(overlay.mac, vtep2, tun.etherType(), inner)
		udp := join([]byte{0xc3, 0x50, 0x21, 0x18}, binary.BigEndian.AppendUint16(nil, uint16(udpLen+vxlanLen+len(frame))), []byte{0, 0})
		return packetV6{src: src, dst: tun.self, class: tos, next: protocolUDP, payload: join(udp, []byte{8, 0, 0, 0, 0, 0, 1, 0}, frame)}.bytes()
	case tun.self.Is4():
		header := ipHeader(join([]byte{0x45, tos}, binary.BigEndian.AppendUint16(nil, uint16(ipv4Len+len(inner))), []byte{0, 0, 0, 0, 64, protocolIPv6, 0, 0},
			src.AsSlice(), tun.self.AsSlice()))
		header.setChecksum()
		return join(header, inner)
	case tun.inner == 4:
		return packetV6{src: src, dst: tun.self, class: tos, next: protocolIPIP, payload: inner}.bytes()
	}
	return packetV6{src: src, dst: tun.self, class: tos, next: protocolIPv6, payload: inner}.bytes()
}

// arrives is an IP packet on the uplink, as its own version says.
func (tun tunnelV6) arrives(ip []byte) arrival {
	return arrival{frame: etherType(uplink.mac, routerMAC, etherTypeOf(int(ip[0]>>4)), ip), ifindex: uplink.ifindex}
}

// datagram is a UDP packet of the inner family.
func (tun tunnelV6) datagram(src, dst netip.Addr, hops, tos uint8) []byte {
	if tun.inner == 4 {
		return datagram{src: src, dst: dst, tos: tos}.withTTL(hops).bytes()
	}
	return packetV6{src: src, dst: dst, hops: hops, class: tos, hopsZero: hops == 0}.bytes()
}

// packetV6 is an IPv6 packet to build: by default UDP of 64 bytes with a right checksum.
type packetV6 struct {
	src, dst netip.Addr
	hops     uint8 // 0: 64; see hopsZero
	hopsZero bool
	class    uint8
	next     uint8 // of payload
	payload  []byte
}

func (p packetV6) bytes() []byte {
	if p.payload == nil {
		p.next, p.payload = protocolUDP, p.udp(64)
	}
	if p.hops == 0 && !p.hopsZero {
		p.hops = 64
	}
	head := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.class)<<20)
	head = binary.BigEndian.AppendUint16(head, uint16(len(p.payload)))
	return join(head, []byte{p.next, p.hops}, p.src.AsSlice(), p.dst.AsSlice(), p.payload)
}

// udp is a datagram of n bytes and its header, even.
func (p packetV6) udp(n int) []byte {
	length := binary.BigEndian.AppendUint16(nil, uint16(udpLen+n))
	udp := join([]byte{0x9c, 0x40, 0, 53}, length, []byte{0, 0}, pattern(n))
	binary.BigEndian.PutUint16(udp[6:], ^internetSum(join(p.src.AsSlice(), p.dst.AsSlice(), []byte{0, protocolUDP}, length, udp)))
	return udp
}

// caseV6 is a packet and all that has to come of it.
type caseV6 struct {
	name    string
	program bpf.DatapathProgram
	in      arrival
	reason  bpf.DatapathReason
	out     []byte // nil: unchanged
	checked bool   // marked so
	event   dropEvent
}

func (m *machine) checkV6(t *testing.T, c caseV6) {
	t.Helper()
	must(t, m.begin())
	verdict, out, err := m.run(c.program, c.in)
	must(t, err)
	p := packetCase{in: c.in, reason: c.reason, event: c.event}
	m.checkCounters(t, c.program, p)
	m.checkEvents(t, c.program, p)
	if want := verdictOf(c.program, c.reason); verdict != want {
		t.Errorf("verdict %d, want %d", verdict, want)
	}
	if broken(c.reason) {
		return
	}
	if c.out == nil {
		c.out = c.in.frame
	}
	if c.reason == bpf.DatapathReasonFORWARD_ENCAPSULATED {
		settleV6(t, out)
	}
	if diff := cmp.Diff(hexLines(c.out), hexLines(out)); diff != "" {
		t.Errorf("packet (-want +got):\n%s", diff)
	}
	if got := m.checked(); got != c.checked {
		t.Errorf("marked as checked: %t, want %t", got, c.checked)
	}
}

func (m *machine) checkAllV6(t *testing.T, cases []caseV6) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m.checkV6(t, c)
			if c.program == bpf.DatapathProgramPROGRAM_FROM_NETWORK && c.in.gsoSize == 0 {
				m.checkBehindXDP(t, c)
			}
		})
	}
}

// fromContainerV6 is a packet of container 1 to its gateway.
func fromContainerV6(ip []byte) arrival {
	return arrival{frame: etherType(bridgeMAC, c1MAC, etherTypeOf(int(ip[0]>>4)), ip), ifindex: link1.ifindex}
}

// settleV6 checks what is free in a pushed header, and zeroes it: of IPv4 the ID, and with it the checksum; of
// IPv6 the flow label; of UDP the source port and the checksum.
func settleV6(t *testing.T, frame []byte) {
	t.Helper()
	if binary.BigEndian.Uint16(frame[etherLen-2:]) == uint16(layers.EthernetTypeIPv4) {
		ip := ipHeader(frame[etherLen:])
		if !ip.checksumOK() {
			t.Errorf("wrong IPv4 checksum: % x", ip[:ipv4Len])
		}
		ip[4], ip[5] = 0, 0
		ip.setChecksum()
		return
	}
	ip := frame[etherLen:]
	if ip[6] != protocolUDP {
		ip[1], ip[2], ip[3] = ip[1]&0xf0, 0, 0
		return
	}
	udp := ip[ipv6Len:]
	if port := binary.BigEndian.Uint16(udp); port < 49152 {
		t.Errorf("source port %d is not in 49152 to 65535", port)
	}
	if sum := internetSum(udpPseudoV6(ip), udp); sum != 0xffff {
		t.Errorf("UDP checksum sums up to %04x: % x", sum, udp[:udpLen])
	}
	clear(udp[:2])
	clear(udp[6:8])
}

// udpSumAt is where an IPv6 packet without extension headers has its UDP checksum.
const udpSumAt = ipv6Len + 6

// udpPseudoV6 is the header that such a packet's UDP checksum covers besides (RFC 8200, 8.1).
func udpPseudoV6(ip []byte) []byte {
	return join(ip[8:ipv6Len], []byte{0, protocolUDP}, ip[ipv6Len+4:ipv6Len+6])
}

// summedV6 is the packet with its UDP checksum.
func summedV6(ip []byte) []byte {
	ip = patched(ip, put16(udpSumAt, 0))
	return patched(ip, put16(udpSumAt, ^internetSum(udpPseudoV6(ip), ip[ipv6Len:])))
}
