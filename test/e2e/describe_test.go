// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/test/lab"
)

// The ports of RFC 6335, 8.1.2 that VXLAN takes its source port from (RFC 7348, 5).
const firstDynamicPort, lastDynamicPort = 49152, 65535

// describe is a packet with all that a test compares: its length, then a line
// for each header. What differs from packet to packet is left out of it: IP
// IDs, checksums, the flow's share of VXLAN's source port, numbers of pings.
func describe(p lab.Packet) []string {
	lines := []string{fmt.Sprintf("%d bytes", p.Len)}
	for _, layer := range lab.Decode(p).Layers {
		if line := describeLayer(layer); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func describeLayer(layer gopacket.Layer) string {
	switch l := layer.(type) {
	case *layers.Ethernet:
		return fmt.Sprintf("Ethernet %s > %s %v", l.SrcMAC, l.DstMAC, l.EthernetType)
	case *layers.IPv4:
		return ipLine(l.SrcIP, l.DstIP, int(l.TTL), int(l.TOS), l.Flags&layers.IPv4DontFragment != 0, l.Protocol, int(l.Length))
	case *layers.UDP:
		source := fmt.Sprint(uint16(l.SrcPort))
		if l.DstPort == 8472 && l.SrcPort >= firstDynamicPort && l.SrcPort <= lastDynamicPort {
			source = "dynamic"
		}
		return udpLine(source, int(l.DstPort), int(l.Length), l.Checksum != 0)
	case *layers.VXLAN:
		return fmt.Sprintf("VXLAN %x", l.Contents)
	case *layers.ICMPv4:
		return fmt.Sprintf("ICMP %v", l.TypeCode)
	case *gopacket.Payload:
		return ""
	}
	return layer.LayerType().String()
}

func ipLine(src, dst fmt.Stringer, ttl, tos int, df bool, protocol layers.IPProtocol, length int) string {
	return fmt.Sprintf("IPv4 %s > %s, TTL %d, TOS %#02x, DF %v, %v, %d bytes", src, dst, ttl, tos, df, protocol, length)
}

func udpLine(source string, destination, length int, checksum bool) string {
	return fmt.Sprintf("UDP %s > %d, %d bytes, checksum %v", source, destination, length, checksum)
}

// traffic is what was captured without what a lab always has: ARP between
// nodes, and etcd's TCP.
func traffic(packets []lab.Packet) (all []lab.Packet) {
	for _, p := range packets {
		if !isUnderlayARP(p) && !isEtcd(p) {
			all = append(all, p)
		}
	}
	return all
}

func isUnderlayARP(p lab.Packet) bool {
	arp := lab.Decode(p).ARP
	return len(arp) == 1 && p.Len <= 60 && !inNetwork(arp[0].SourceProtAddress) && !inNetwork(arp[0].DstProtAddress)
}

func isEtcd(p lab.Packet) bool {
	d := lab.Decode(p)
	return len(d.TCP) == 1 && len(d.IP) == 1 && !inNetwork(d.IP[0].Src.AsSlice()) && !inNetwork(d.IP[0].Dst.AsSlice()) &&
		(d.TCP[0].SrcPort == 2379 || d.TCP[0].DstPort == 2379)
}

func inNetwork(addr []byte) bool {
	a, ok := netip.AddrFromSlice(addr)
	return ok && (lab.Network.Contains(a.Unmap()) || lab.Network6.Contains(a))
}

// verify checks every checksum, and tells of the first packet with a wrong one.
func verify(t *testing.T, where string, packets []lab.Packet) {
	t.Helper()
	for _, p := range packets {
		if err := lab.VerifyChecksums(finished(p)); err != nil {
			t.Errorf("%s: %s: %v", where, lab.Summary(p), err)
			return
		}
	}
}

// finished is a packet without the checksum of its outer UDP header, where a NIC
// would have filled that in, alone or for each segment.
func finished(p lab.Packet) lab.Packet {
	d := lab.Decode(p)
	if !p.Partial || len(d.IP) < 2 || d.IP[0].Protocol != layers.IPProtocolUDP || d.UDP[0].Checksum == 0 {
		return p
	}
	outerUDP := 14 + 20
	if d.IP[0].Version == 6 {
		outerUDP = 14 + 40
	}
	p.Data = slices.Clone(p.Data)
	clear(p.Data[outerUDP+6 : outerUDP+8])
	p.Partial = p.CsumStart != outerUDP // that was it
	return p
}
