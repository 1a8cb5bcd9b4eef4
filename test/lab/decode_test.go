// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func ethernet() *layers.Ethernet {
	return &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
}

func ipHeader(src, dst string, protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func outer(protocol layers.IPProtocol) *layers.IPv4 {
	return ipHeader("192.168.32.246", "192.168.32.245", protocol)
}

func inner(protocol layers.IPProtocol) *layers.IPv4 {
	return ipHeader("172.246.0.2", "172.245.0.2", protocol)
}

func ethernet6() *layers.Ethernet {
	e := ethernet()
	e.EthernetType = layers.EthernetTypeIPv6
	return e
}

func ip6Header(src, dst string, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func outer6(next layers.IPProtocol) *layers.IPv6 { return ip6Header("fd00::246", "fd00::245", next) }

func inner6(next layers.IPProtocol) *layers.IPv6 { return ip6Header("fd00:1::2", "fd00:2::2", next) }

func udp(src, dst layers.UDPPort, ip gopacket.NetworkLayer) *layers.UDP {
	u := &layers.UDP{SrcPort: src, DstPort: dst}
	_ = u.SetNetworkLayerForChecksum(ip) // an IP layer is one
	return u
}

func tcp(ip gopacket.NetworkLayer) *layers.TCP {
	t := &layers.TCP{SrcPort: 1000, DstPort: 80, Seq: 7, Ack: 9, SYN: true, ACK: true}
	_ = t.SetNetworkLayerForChecksum(ip) // an IP layer is one
	return t
}

func echo() []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0), Id: 3, Seq: 4},
		gopacket.Payload(strings.Repeat("x", 56)),
	}
}

func echo6() []gopacket.SerializableLayer {
	i := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoReply, 0)}
	_ = i.SetNetworkLayerForChecksum(inner6(layers.IPProtocolICMPv6)) // an IP layer is one
	return []gopacket.SerializableLayer{i, &layers.ICMPv6Echo{Identifier: 3, SeqNumber: 4}, gopacket.Payload(strings.Repeat("x", 56))}
}

func serialize(t testing.TB, parts ...gopacket.SerializableLayer) Packet {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...)
	if err != nil {
		t.Fatal(err)
	}
	return Packet{Data: b.Bytes(), Len: len(b.Bytes())}
}

// samples are packets, how they read, and where their checksums lie.
func samples(t testing.TB) map[string]struct {
	packet    Packet
	summary   string
	checksums []int
} {
	o, i := outer(layers.IPProtocolUDP), inner(layers.IPProtocolTCP)
	ip := func(protocol layers.IPProtocol) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{ethernet(), outer(protocol)}
	}
	o6, u6, o64 := outer6(layers.IPProtocolIPv6), outer6(layers.IPProtocolUDP), outer6(layers.IPProtocolIPv4)
	return map[string]struct {
		packet    Packet
		summary   string
		checksums []int
	}{
		"icmp": {
			serialize(t, append(ip(layers.IPProtocolICMPv4), echo()...)...),
			"IP 192.168.32.246 > 192.168.32.245: ICMP echo reply, id 3, seq 4, length 64",
			[]int{24, 36},
		},
		"ipip": {
			serialize(t, append(append(ip(layers.IPProtocolIPv4), inner(layers.IPProtocolICMPv4)), echo()...)...),
			"IP 192.168.32.246 > 192.168.32.245: IP 172.246.0.2 > 172.245.0.2: " +
				"ICMP echo reply, id 3, seq 4, length 64 (ipip-proto-4)",
			[]int{24, 44, 56},
		},
		"vxlan": {
			serialize(t, append([]gopacket.SerializableLayer{
				ethernet(), o, udp(50000, 8472, o), &layers.VXLAN{ValidIDFlag: true, VNI: 5}, ethernet(), inner(layers.IPProtocolICMPv4),
			}, echo()...)...),
			"IP 192.168.32.246.50000 > 192.168.32.245.8472: VXLAN, flags [I] (0x08), vni 5\n" +
				"IP 172.246.0.2 > 172.245.0.2: ICMP echo reply, id 3, seq 4, length 64",
			[]int{24, 40, 74, 86},
		},
		"udp": {
			serialize(t, ethernet(), o, udp(8285, 8285, o), i, tcp(i), gopacket.Payload("hello")),
			"IP 192.168.32.246.8285 > 192.168.32.245.8285: UDP, length 45\n" +
				"IP 172.246.0.2.1000 > 172.245.0.2.80: Flags [S.], seq 7, ack 9, length 5",
			[]int{24, 40, 52, 78},
		},
		"6in6 udp": {
			serialize(t, ethernet6(), o6, inner6(layers.IPProtocolTCP), tcp(inner6(layers.IPProtocolTCP)), gopacket.Payload("hello")),
			"IP6 fd00::246 > fd00::245: IP6 fd00:1::2.1000 > fd00:2::2.80: Flags [S.], seq 7, ack 9, length 5",
			[]int{110},
		},
		"ICMPv6 in vxlan over IPv6": {
			serialize(t, append([]gopacket.SerializableLayer{
				ethernet6(), u6, udp(50000, 8472, u6), &layers.VXLAN{ValidIDFlag: true, VNI: 5}, ethernet6(), inner6(layers.IPProtocolICMPv6),
			}, echo6()...)...),
			"IP6 fd00::246.50000 > fd00::245.8472: VXLAN, flags [I] (0x08), vni 5\n" +
				"IP6 fd00:1::2 > fd00:2::2: ICMP6, echo reply",
			[]int{60, 126},
		},
		"SCTP in 4in6": {
			serialize(t, ethernet6(), o64, inner(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, gopacket.Payload("chunk")),
			"IP6 fd00::246 > fd00::245: IP 172.246.0.2 > 172.245.0.2: ",
			[]int{82},
		},
		"plain udp": {
			serialize(t, ethernet(), o, udp(1, 2, o), gopacket.Payload("hello")),
			"IP 192.168.32.246.1 > 192.168.32.245.2: UDP, length 5",
			[]int{24, 40},
		},
	}
}

func TestSummary(t *testing.T) {
	for name, sample := range samples(t) {
		if got := Summary(sample.packet); got != sample.summary {
			t.Errorf("%s: %q, want %q", name, got, sample.summary)
		}
	}
}

// TestVerifyChecksums: right packets pass, and a bit wrong in any checksum does not.
func TestVerifyChecksums(t *testing.T) {
	for name, sample := range samples(t) {
		if err := VerifyChecksums(sample.packet); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, at := range sample.checksums {
			sample.packet.Data[at] ^= 0x40
			if VerifyChecksums(sample.packet) == nil {
				t.Errorf("%s: a wrong checksum at byte %d passes", name, at)
			}
			sample.packet.Data[at] ^= 0x40
		}
	}
}

// TestVerifyPartial: a partial checksum has to be the pseudo-header's sum.
func TestVerifyPartial(t *testing.T) {
	p := samples(t)["udp"].packet
	p.Partial = true
	if VerifyChecksums(p) == nil {
		t.Error("a complete checksum passes for a partial one")
	}
	const tcpChecksum, udpChecksum = 78, 40
	sum := onesSum(0, Decode(p).IP[1].pseudoHeader())
	p.Data[tcpChecksum], p.Data[tcpChecksum+1] = byte(sum>>8), byte(sum)
	p.Data[udpChecksum], p.Data[udpChecksum+1] = 0, 0 // the outer one covers the inner: none
	if err := VerifyChecksums(p); err != nil {
		t.Errorf("partial checksum: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, sample := range samples(f) {
		f.Add(sample.packet.Data, false)
	}
	f.Fuzz(func(_ *testing.T, data []byte, partial bool) {
		p := Packet{Data: data, Len: len(data), Partial: partial}
		_ = Summary(p)
		_ = VerifyChecksums(p)
	})
}
