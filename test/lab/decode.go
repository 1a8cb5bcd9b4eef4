// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// UDP ports whose payload is known.
const (
	vxlanPort = 8472 // Linux's and flannel's; gopacket knows 4789
	udpPort   = 8285 // flannel's udp backend: the bare inner packet
)

func init() {
	layers.RegisterUDPPortLayerType(vxlanPort, layers.LayerTypeVXLAN)
	layers.RegisterUDPPortLayerType(udpPort, layers.LayerTypeIPv4)
}

// Decoded is a packet's layers by kind, the outermost of each kind first.
type Decoded struct {
	Layers   []gopacket.Layer // all, in their order
	Ethernet []*layers.Ethernet
	ARP      []*layers.ARP
	IP       []IP // of either version
	IPv4     []*layers.IPv4
	IPv6     []*layers.IPv6
	UDP      []*layers.UDP
	VXLAN    []*layers.VXLAN
	TCP      []*layers.TCP
	ICMP     []*layers.ICMPv4
	ICMPv6   []*layers.ICMPv6
	SCTP     []*layers.SCTP
}

// Decode takes a packet apart as far as it can. UDP to port 8472 is VXLAN, to
// 8285 flannel's udp backend.
func Decode(p Packet) Decoded {
	var d Decoded
	d.Layers = gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy).Layers()
	for _, layer := range d.Layers {
		if ip, ok := ipOf(layer); ok {
			d.IP = append(d.IP, ip)
		}
		switch l := layer.(type) {
		case *layers.Ethernet:
			d.Ethernet = append(d.Ethernet, l)
		case *layers.ARP:
			d.ARP = append(d.ARP, l)
		case *layers.IPv4:
			d.IPv4 = append(d.IPv4, l)
		case *layers.IPv6:
			d.IPv6 = append(d.IPv6, l)
		case *layers.UDP:
			d.UDP = append(d.UDP, l)
		case *layers.VXLAN:
			d.VXLAN = append(d.VXLAN, l)
		case *layers.TCP:
			d.TCP = append(d.TCP, l)
		case *layers.ICMPv4:
			d.ICMP = append(d.ICMP, l)
		case *layers.ICMPv6:
			d.ICMPv6 = append(d.ICMPv6, l)
		case *layers.SCTP:
			d.SCTP = append(d.SCTP, l)
		}
	}
	return d
}

// transportChecksums is where the checksum lies in each transport header, and
// whether it covers a pseudo-header (RFC 768, 9293, 4443; RFC 792 has none).
var transportChecksums = map[layers.IPProtocol]struct {
	offset int
	pseudo bool
}{
	layers.IPProtocolTCP:    {16, true},
	layers.IPProtocolUDP:    {6, true},
	layers.IPProtocolICMPv4: {2, false},
	layers.IPProtocolICMPv6: {2, true},
}

// VerifyChecksums checks every IPv4, TCP, UDP, ICMP and SCTP checksum of a packet,
// outer and inner. Of a partial one, it checks what the kernel has put there:
// the sum of the pseudo-header. Transport checksums of fragments, and of packets
// captured in part, cannot be checked.
func VerifyChecksums(p Packet) error {
	var err error
	d := Decode(p)
	for _, ip := range d.IPv4 {
		if onesSum(0, ip.Contents) != 0xffff {
			err = errors.Join(err, fmt.Errorf("IPv4 header %s > %s: wrong header checksum", ip.SrcIP, ip.DstIP))
		}
	}
	for i, ip := range d.IP {
		partial := p.Partial && i == len(d.IP)-1
		if e := verifyTransport(ip, partial, len(p.Data) < p.Len); e != nil {
			err = errors.Join(err, fmt.Errorf("IP header %d of %d, %v: %w", i+1, len(d.IP), ip, e))
		}
	}
	return err
}

func verifyTransport(ip IP, partial, truncated bool) error {
	if ip.IsFragment() || truncated && !partial {
		return nil
	}
	if ip.Protocol == layers.IPProtocolSCTP && !partial {
		return verifySCTP(ip.Payload)
	}
	at, known := transportChecksums[ip.Protocol]
	if !known || len(ip.Payload) < at.offset+2 {
		return nil
	}
	var pseudo uint16
	if at.pseudo {
		pseudo = onesSum(0, ip.pseudoHeader())
	}
	field := binary.BigEndian.Uint16(ip.Payload[at.offset:])
	switch {
	case partial && field != pseudo:
		return fmt.Errorf("partial %v checksum is %#04x, want %#04x", ip.Protocol, field, pseudo)
	case partial, ip.Protocol == layers.IPProtocolUDP && field == 0:
		return nil
	case onesSum(pseudo, ip.Payload) != 0xffff:
		return fmt.Errorf("wrong %v checksum %#04x", ip.Protocol, field)
	}
	return nil
}

// verifySCTP checks a CRC32c, which stands little end first (RFC 9260, 6.8 and appendix A).
func verifySCTP(b []byte) error {
	const at = 8
	if len(b) < at+4 {
		return nil
	}
	sum := crc32.Update(0, castagnoli, b[:at])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	sum = crc32.Update(sum, castagnoli, b[at+4:])
	if field := binary.LittleEndian.Uint32(b[at:]); field != sum {
		return fmt.Errorf("wrong SCTP checksum %#08x", field)
	}
	return nil
}

// onesSum is the one's complement sum of RFC 1071.
func onesSum(start uint16, b []byte) uint16 {
	sum := uint32(start)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// Summary is a packet as tcpdump prints it: a line for each IP packet that has
// UDP around it, otherwise one line in all.
func Summary(p Packet) string {
	d := Decode(p)
	s := ""
	for i, layer := range d.Layers {
		switch l := layer.(type) {
		case *layers.ARP:
			s += fmt.Sprintf("ARP, operation %d, %s > %s", l.Operation, addrOf(l.SourceProtAddress), addrOf(l.DstProtAddress))
		case *layers.IPv4, *layers.IPv6:
			ip, _ := ipOf(l)
			s += ipSummary(ip, d.Layers[i+1:])
		case *layers.VXLAN:
			s += fmt.Sprintf("VXLAN, flags [I] (%#02x), vni %d\n", l.Contents[0], l.VNI)
		case *layers.UDP:
			if l.DstPort == udpPort {
				s += fmt.Sprintf("UDP, length %d\n", len(l.Payload))
			} else if l.NextLayerType() != layers.LayerTypeVXLAN {
				s += fmt.Sprintf("UDP, length %d", l.Length-8)
			}
		case *layers.TCP:
			s += tcpSummary(l, d.IP[len(d.IP)-1])
		case *layers.ICMPv4:
			s += icmpSummary(l)
		case *layers.ICMPv6:
			s += icmp6Summary(l)
		}
	}
	if len(d.IPv4) > 1 && d.IP[0].Protocol == layers.IPProtocolIPv4 {
		s += " (ipip-proto-4)"
	}
	return s
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ipSummary is "IP 10.0.0.1.1234 > 10.0.0.2.80: ", with ports where there are any.
func ipSummary(ip IP, rest []gopacket.Layer) string {
	var src, dst string
	if len(rest) > 0 {
		switch l := rest[0].(type) {
		case *layers.UDP:
			src, dst = fmt.Sprintf(".%d", uint16(l.SrcPort)), fmt.Sprintf(".%d", uint16(l.DstPort))
		case *layers.TCP:
			src, dst = fmt.Sprintf(".%d", uint16(l.SrcPort)), fmt.Sprintf(".%d", uint16(l.DstPort))
		}
	}
	name := "IP"
	if ip.Version == 6 {
		name = "IP6"
	}
	return fmt.Sprintf("%s %s%s > %s%s: ", name, ip.Src, src, ip.Dst, dst)
}

func tcpSummary(tcp *layers.TCP, ip IP) string {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{tcp.SYN, "S"}, {tcp.FIN, "F"}, {tcp.RST, "R"}, {tcp.PSH, "P"}, {tcp.ACK, "."}} {
		if f.set {
			flags += f.name
		}
	}
	return fmt.Sprintf("Flags [%s], seq %d, ack %d, length %d", flags, tcp.Seq, tcp.Ack,
		ip.PayloadLength()-4*int(tcp.DataOffset))
}

func icmpSummary(i *layers.ICMPv4) string {
	name := i.TypeCode.String()
	switch i.TypeCode.Type() {
	case layers.ICMPv4TypeEchoRequest:
		name = "echo request"
	case layers.ICMPv4TypeEchoReply:
		name = "echo reply"
	default:
		return "ICMP " + name
	}
	return fmt.Sprintf("ICMP %s, id %d, seq %d, length %d", name, i.Id, i.Seq, len(i.Contents)+len(i.Payload))
}

func icmp6Summary(i *layers.ICMPv6) string {
	name := i.TypeCode.String()
	switch i.TypeCode.Type() {
	case layers.ICMPv6TypeEchoRequest:
		name = "echo request"
	case layers.ICMPv6TypeEchoReply:
		name = "echo reply"
	}
	return "ICMP6, " + name
}
