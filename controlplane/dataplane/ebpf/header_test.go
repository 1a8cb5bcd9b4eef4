// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

var (
	testNetwork = netip.MustParsePrefix("172.244.0.0/14")
	selfMAC     = topology.MAC{0xc6, 0, 0, 0, 1, 0}
	peerMAC     = topology.MAC{0xc6, 0, 0, 0, 2, 0}
)

// testSelf is host 1 of the lab.
func testSelf(e topology.Encap) topology.Self {
	s := topology.Self{
		Subnet: netip.MustParsePrefix("172.245.0.0/24"), Node: netip.MustParseAddr("192.168.32.245"), Uplink: 2,
		Encap: e, MTU: 1500 - e.Overhead(netip.IPv4Unspecified()),
	}
	switch e {
	case topology.EncapVXLAN:
		s.VTEP, s.VNI, s.Port = topology.VTEP{MAC: selfMAC, Addr: s.Subnet.Addr()}, 1, 8472
	case topology.EncapUDP:
		s.Port = 8285
	}
	return s
}

// testPeer is host 2, by an encapsulation, on the link.
func testPeer(e topology.Encap) topology.Peer {
	return peerOf("172.246.0.0/24", "192.168.32.246", e, peerMAC)
}

func peerOf(subnet, node string, e topology.Encap, mac topology.MAC) topology.Peer {
	p := topology.Peer{
		Key: strings.ReplaceAll(subnet, "/", "-"), Subnet: netip.MustParsePrefix(subnet), Node: netip.MustParseAddr(node), Encap: e,
	}
	p.Path = topology.Path{Ifindex: 2, NextHop: p.Node, MTU: 1500}
	if e == topology.EncapVXLAN {
		p.VTEP = topology.VTEP{MAC: mac, Addr: p.Subnet.Addr()}
	}
	return p
}

// inner is what the datapath takes from a packet to complete its header.
type inner struct {
	len        uint16
	ttl, tos   byte
	df         bool
	id         uint16 // of the outer header
	sourcePort uint16
}

// complete does to a header what header_complete in bpf/include/encap.h does.
func complete(h maps.Host, in inner) []byte {
	header := h.Header[:h.HeaderLen]
	word := func(at int) uint32 { return uint32(binary.BigEndian.Uint16(header[at:])) }
	sum := word(10) // of the header as it stands
	put := func(at int, v uint16) {
		sum += uint32(v)
		binary.BigEndian.PutUint16(header[at:], uint16(word(at))+v)
	}
	put(2, in.len+uint16(h.HeaderLen))
	put(4, in.id)
	put(0, uint16(in.tos&3))
	if h.Flags&bpf.DatapathHostFlagsHOST_INHERIT_DF != 0 && in.df {
		put(6, dontFragment)
	}
	if h.Flags&bpf.DatapathHostFlagsHOST_INHERIT_TTL != 0 {
		put(8, uint16(in.ttl)<<8)
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	if header[9] == byte(layers.IPProtocolUDP) {
		binary.BigEndian.PutUint16(header[24:], in.len+uint16(h.HeaderLen)-ipv4Len)
		if h.Flags&bpf.DatapathHostFlagsHOST_SOURCE_PORT != 0 {
			binary.BigEndian.PutUint16(header[20:], in.sourcePort)
		}
	}
	return header
}

// checksumOK is RFC 1071's receiver side.
func checksumOK(header []byte) bool {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum == 0xffff
}

var ignoreBytes = cmpopts.IgnoreFields(layers.BaseLayer{}, "Contents", "Payload")

// TestHeader decodes each encapsulation's completed header and holds it equal,
// field by field, to what the kernel's device sends for the packet.
func TestHeader(t *testing.T) {
	in := inner{len: 84, ttl: 63, df: true, id: 0x1234, sourcePort: 0xc123}
	outer := layers.IPv4{
		Version: 4, IHL: 5, Id: 0x1234, TTL: 64, Protocol: layers.IPProtocolUDP,
		SrcIP: net.IP{192, 168, 32, 245}, DstIP: net.IP{192, 168, 32, 246},
	}
	tests := []struct {
		encap topology.Encap
		wire  bpf.DatapathEncap
		flags bpf.DatapathHostFlags
		ip    func(*layers.IPv4)
		above []any // layers behind the IP header
	}{
		{
			encap: topology.EncapVXLAN, wire: bpf.DatapathEncapENCAP_VXLAN, flags: bpf.DatapathHostFlagsHOST_SOURCE_PORT,
			ip: func(ip *layers.IPv4) { ip.Length = 134 },
			above: []any{
				&layers.UDP{SrcPort: 0xc123, DstPort: 8472, Length: 114},
				&layers.VXLAN{ValidIDFlag: true, VNI: 1},
				&layers.Ethernet{
					DstMAC: net.HardwareAddr(peerMAC[:]), SrcMAC: net.HardwareAddr(selfMAC[:]), EthernetType: layers.EthernetTypeIPv4,
				},
			},
		},
		{
			encap: topology.EncapIPIP, wire: bpf.DatapathEncapENCAP_IPIP,
			flags: bpf.DatapathHostFlagsHOST_INHERIT_TTL | bpf.DatapathHostFlagsHOST_INHERIT_DF,
			ip: func(ip *layers.IPv4) {
				ip.Length, ip.TTL, ip.Protocol, ip.Flags = 104, 63, layers.IPProtocolIPv4, layers.IPv4DontFragment
			},
		},
		{
			encap: topology.EncapUDP, wire: bpf.DatapathEncapENCAP_UDP,
			ip:    func(ip *layers.IPv4) { ip.Length, ip.Flags = 112, layers.IPv4DontFragment },
			above: []any{&layers.UDP{SrcPort: 8285, DstPort: 8285, Length: 92}},
		},
	}
	for _, test := range tests {
		t.Run(string(test.encap), func(t *testing.T) {
			h, err := hostEntry(testSelf(test.encap), testPeer(test.encap))
			if err != nil {
				t.Fatal(err)
			}
			if h.Encap != test.wire || h.Flags != test.flags || int(h.HeaderLen) != test.encap.Overhead(netip.IPv4Unspecified()) {
				t.Errorf("encap %d, flags %d, header of %d bytes; want %d, %d, %d",
					h.Encap, h.Flags, h.HeaderLen, test.wire, test.flags, test.encap.Overhead(netip.IPv4Unspecified()))
			}
			header := complete(h, in)
			if !checksumOK(header[:ipv4Len]) {
				t.Errorf("checksum of % x is wrong", header[:ipv4Len])
			}
			ip := outer
			test.ip(&ip)
			want := append([]any{&ip}, test.above...)
			got := decode(t, header, want)
			got[0].(*layers.IPv4).Checksum = 0 // checked above
			if diff := cmp.Diff(want, got, ignoreBytes, cmpopts.IgnoreUnexported(layers.UDP{})); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

// decode reads a header as layers of the types of these.
func decode(t *testing.T, header []byte, like []any) []any {
	t.Helper()
	var all []any
	for _, l := range like {
		var layer gopacket.DecodingLayer
		switch l.(type) {
		case *layers.IPv4:
			layer = &layers.IPv4{}
		case *layers.UDP:
			layer = &layers.UDP{}
		case *layers.VXLAN:
			layer = &layers.VXLAN{}
		case *layers.Ethernet:
			layer = &layers.Ethernet{}
		}
		if err := layer.DecodeFromBytes(header, gopacket.NilDecodeFeedback); err != nil {
			t.Fatalf("decode % x as %T: %v", header, l, err)
		}
		header = layer.LayerPayload()
		all = append(all, layer)
	}
	if len(header) > 0 {
		t.Errorf("% x is left over", header)
	}
	return all
}

// TestHeaderChecksum completes headers between random addresses, for random
// packets: the sum that the entry carries is right whatever is added to it.
func TestHeaderChecksum(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	addr := func() netip.Addr {
		return netip.AddrFrom4([4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
	}
	for e := range modes {
		for range 5000 {
			self, peer := testSelf(e), testPeer(e)
			self.Node, peer.Node = addr(), addr()
			h, err := hostEntry(self, peer)
			if err != nil {
				t.Fatal(err)
			}
			in := inner{
				len: uint16(r.IntN(0xffff - 72)), ttl: byte(r.Uint32()), tos: byte(r.Uint32()), df: r.IntN(2) == 0, id: uint16(r.Uint32()),
			}
			if header := complete(h, in); !checksumOK(header[:ipv4Len]) {
				t.Fatalf("checksum of % x is wrong, for %+v", header[:ipv4Len], in)
			}
		}
	}
}

func TestHostEntry(t *testing.T) {
	router, node := netip.MustParseAddr("192.168.32.1"), testPeer("").Node
	tests := map[string]struct {
		encap   topology.Encap
		path    topology.Path
		mtu     uint16
		nextHop netip.Addr
	}{
		"on the link":            {topology.EncapVXLAN, topology.Path{Ifindex: 7, NextHop: node, MTU: 1500}, 1450, node},
		"behind a router":        {topology.EncapIPIP, topology.Path{Ifindex: 7, NextHop: router, MTU: 1400}, 1380, router},
		"above the network's":    {topology.EncapVXLAN, topology.Path{Ifindex: 7, NextHop: router, MTU: 9000}, 1450, router},
		"udp":                    {topology.EncapUDP, topology.Path{Ifindex: 7, NextHop: router, MTU: 1500}, 1472, router},
		"plain":                  {topology.EncapNone, topology.Path{Ifindex: 7, NextHop: router, MTU: 1500}, 1500, router},
		"loopback's MTU":         {topology.EncapNone, topology.Path{Ifindex: 7, NextHop: router, MTU: 65536}, 65535, router},
		"path without any room":  {topology.EncapVXLAN, topology.Path{Ifindex: 7, NextHop: router, MTU: 49}, 0, router},
		"path of unknown length": {topology.EncapVXLAN, topology.Path{Ifindex: 7, NextHop: router}, 0, router},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := testPeer(test.encap)
			p.Path = test.path
			h, err := hostEntry(testSelf(test.encap), p)
			if err != nil {
				t.Fatal(err)
			}
			if h.Node != p.Node || h.NextHop != test.nextHop || h.Ifindex != 7 || h.MTU != test.mtu {
				t.Errorf("node %s, next hop %s, ifindex %d, MTU %d; want %s, %s, 7, %d",
					h.Node, h.NextHop, h.Ifindex, h.MTU, p.Node, test.nextHop, test.mtu)
			}
			if test.encap == topology.EncapNone && h != (maps.Host{Node: h.Node, NextHop: h.NextHop, Ifindex: 7, MTU: h.MTU}) {
				t.Errorf("a plain host carries more than it needs: %+v", h)
			}
		})
	}
}

func TestHostEntryRefused(t *testing.T) {
	tests := map[string]struct {
		change func(*topology.Self, *topology.Peer)
		want   string
	}{
		"unknown encapsulation": {
			func(_ *topology.Self, p *topology.Peer) { p.Encap = "gre" }, `build outer header: unknown encapsulation "gre"`,
		},
		"IPv6 next hop of an IPv4 route": {
			func(_ *topology.Self, p *topology.Peer) { p.Path.NextHop = netip.MustParseAddr("fe80::1") },
			"send to 192.168.32.246 by way of fe80::1: not of one address family",
		},
		"this node without an address": {
			func(s *topology.Self, _ *topology.Peer) { s.Node = netip.Addr{} },
			"send to 192.168.32.246: this node has no address of that family",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			self, peer := testSelf(topology.EncapVXLAN), testPeer(topology.EncapVXLAN)
			test.change(&self, &peer)
			if _, err := hostEntry(self, peer); err == nil || err.Error() != test.want {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
