// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// ipHeader is the length of a header of the family without options, bytes.
func ipHeader(f lab.Families) int {
	if f == lab.V6 {
		return 40
	}
	return 20
}

// fragmentCountOf is fragmentCount of either family.
func fragmentCountOf(f lab.Families, size, mtu int) int {
	if f == lab.V4 || size+8+ipHeader(f) <= mtu {
		return fragmentCount(size, mtu)
	}
	each := (mtu - 40 - 8) &^ 7 // the fragment header is RFC 8200's, 4.5
	return (size + 8 + each - 1) / each
}

// ipv6 is ipv4 of the other family.
func ipv6(src, dst netip.Addr, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// datagramOf is an IP packet with a datagram, of its addresses' family.
func datagramOf(src, dst netip.Addr, payload []byte) []byte {
	if src.Is4() {
		return udpPacket(src, dst, 4000, 4000, payload)
	}
	ip := ipv6(src, dst, layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: 4000, DstPort: 4000}
	_ = udp.SetNetworkLayerForChecksum(ip) // never fails for IPv6
	return serialize(ip, udp, gopacket.Payload(payload))
}

// tunnelPacketOf is tunnelPacket of any families, from an outer source.
func tunnelPacketOf(t *testing.T, l *lab.Lab, from, to *lab.Host, src netip.Addr, packet []byte) []byte {
	t.Helper()
	if src.Is4() && packet[0]>>4 == 4 {
		return tunnelPacket(t, l, from, to, packet, func(ip *layers.IPv4) { ip.SrcIP = src.AsSlice() })
	}
	inside := layers.IPProtocolIPv4
	if packet[0]>>4 == 6 {
		inside = layers.IPProtocolIPv6
	}
	switch {
	case src.Is4():
		return serialize(ipv4(src, to.Addr, inside), gopacket.Payload(packet))
	case l.Options.Backend == topology.EncapVXLAN:
		frame := ethernet(mac(t, from, "bpfnet0-v6"), mac(t, to, "bpfnet0-v6"), packet)
		return serialize(ipv6(src, to.Addr6, layers.IPProtocolUDP), noChecksum(50000, 8472), &layers.VXLAN{ValidIDFlag: true, VNI: 1}, gopacket.Payload(frame))
	}
	return serialize(ipv6(src, to.Addr6, inside), gopacket.Payload(packet))
}
