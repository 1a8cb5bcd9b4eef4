// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// ipv6Machine is host 1 with one peer at an address of either family, and a container of IPv6.
func ipv6Machine(t *testing.T, encap topology.Encap, peer netip.Addr) *machine {
	t.Helper()
	port := map[topology.Encap]uint16{topology.EncapVXLAN: 8472}[encap]
	s := topology.State{
		Network: netip.MustParsePrefix("fd00:42::/48"),
		Self: topology.Self{
			Subnet: subnetV6, Node: nodeV6, Other: node1, Uplink: int(uplink.ifindex), Encap: encap, VNI: 1, Port: port, MTU: 1430,
			VTEP: topology.VTEP{MAC: overlay.mac, Addr: subnetV6.Addr()},
		},
		Peers: []topology.Peer{{
			Key: "k", Subnet: peerNetV6, Node: peer, Encap: encap, VTEP: topology.VTEP{MAC: vtep2, Addr: peerNetV6.Addr()},
			Path: topology.Path{Ifindex: int(uplink.ifindex), NextHop: peer, MTU: 1500},
		}},
	}
	return daemonsMachine(t, s, containerV6)
}

func udpV6(src, dst netip.Addr, hopLimit uint8) []byte {
	ip := &layers.IPv6{Version: 6, HopLimit: hopLimit, NextHeader: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	udp := &layers.UDP{SrcPort: 40000, DstPort: 53}
	_ = udp.SetNetworkLayerForChecksum(ip)
	return build(ip, udp, gopacket.Payload(pattern(64)))
}

// TestIPv6 sends a packet to a peer and back, by each tunnel and outer family.
func TestIPv6(t *testing.T) {
	for _, c := range []struct {
		name  string
		encap topology.Encap
		peer  netip.Addr
		outer int // bytes pushed
	}{
		{"vxlan", topology.EncapVXLAN, peerV6, 70},
		{"6in6", topology.EncapIPIP, peerV6, 40},
		{"6in4", topology.EncapIPIP, node2, 20},
		{"host-gw", topology.EncapNone, peerV6, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := ipv6Machine(t, c.encap, c.peer)
			in := etherType(bridgeMAC, c1MAC, layers.EthernetTypeIPv6, udpV6(containerV6, remoteV6, 64))
			verdict, out, err := m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, arrival{frame: in, ifindex: link1.ifindex})
			must(t, err)
			if verdict != actRedirect || len(out) != len(in)+c.outer {
				t.Fatalf("verdict %d, %d bytes pushed, want %d: % x", verdict, len(out)-len(in), c.outer, out)
			}
			compareFrames(t, "inner packet", udpV6(containerV6, remoteV6, 63), out[etherLen+c.outer:])
			wantType := uint16(0x86dd)
			if c.peer.Is4() {
				wantType = 0x0800
			}
			if got := binary.BigEndian.Uint16(out[12:]); got != wantType {
				t.Errorf("EtherType %04x, want %04x", got, wantType)
			}
			header := append([]byte(nil), out[etherLen:etherLen+c.outer]...)
			if c.name == "vxlan" {
				udp := out[etherLen+40:]
				if sum := internetSum(udpPseudoV6(out[etherLen:]), udp); sum != 0xffff {
					t.Errorf("UDP checksum sums up to %04x: % x", sum, udp[:8])
				}
			}
			if c.encap == topology.EncapNone {
				return
			}
			// Back: the same header turned round.
			if c.peer.Is4() {
				header = join(header[:12], header[16:20], header[12:16])
			} else {
				header = join(header[:8], header[24:40], header[8:24], header[40:])
			}
			if c.name == "vxlan" {
				copy(header[40+8+8:], overlay.mac[:])
			}
			inner := udpV6(remoteV6, containerV6, 64)
			packet := join(header, inner)
			if c.name == "vxlan" {
				packet = summedV6(packet)
			}
			frame := etherType(uplink.mac, routerMAC, layers.EthernetType(wantType), packet)
			verdict, out, err = m.run(bpf.DatapathProgramPROGRAM_FROM_NETWORK, arrival{frame: frame, ifindex: uplink.ifindex})
			must(t, err)
			if verdict != actRedirect {
				moved, err := m.moved()
				must(t, err)
				t.Fatalf("verdict %d: %s", verdict, counterNames(moved))
			}
			compareFrames(t, "delivered", etherType(c1MAC, bridgeMAC, layers.EthernetTypeIPv6, udpV6(remoteV6, containerV6, 63)), out)
		})
	}
}
