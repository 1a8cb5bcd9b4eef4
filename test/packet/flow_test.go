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
)

// sourcePort is the port that the packet's VXLAN header gets.
func sourcePort(t *testing.T, m *machine, d datagram) uint16 {
	t.Helper()
	_, out, err := m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, fromC1(d))
	must(t, err)
	if ip := ipHeader(out[etherLen:]); !m.isVXLAN(ip.dst()) {
		t.Fatalf("packet not sent by VXLAN: % x", out)
	}
	return binary.BigEndian.Uint16(out[atUDP:])
}

func udpFlow(src, dst netip.Addr, srcPort, dstPort uint16) datagram {
	return datagram{src: src, dst: dst, transport: &layers.UDP{SrcPort: layers.UDPPort(srcPort), DstPort: layers.UDPPort(dstPort)}}
}

// TestFlowKeepsPort: what differs from packet to packet of a flow does not move its port.
func TestFlowKeepsPort(t *testing.T) {
	m := load(t, lab)
	tcp := func(edit func(*layers.TCP)) gopacket.SerializableLayer {
		l4 := &layers.TCP{SrcPort: 40000, DstPort: 80}
		edit(l4)
		return l4
	}
	flow := datagram{src: c1, dst: remote2, transport: tcp(func(*layers.TCP) {})}
	want := sourcePort(t, m, flow)
	for kind, edit := range map[string]func(*datagram){
		"again":    func(*datagram) {},
		"TTL":      func(d *datagram) { d.ttl = 3 },
		"TOS":      func(d *datagram) { d.tos = 0xb9 },
		"IP ID":    func(d *datagram) { d.id = 77 },
		"DF":       func(d *datagram) { d.flags = layers.IPv4DontFragment },
		"length":   func(d *datagram) { d.payload = pattern(1000) },
		"sequence": func(d *datagram) { d.transport = tcp(func(l *layers.TCP) { l.Seq, l.Ack = 9, 8 }) },
		"flags":    func(d *datagram) { d.transport = tcp(func(l *layers.TCP) { l.SYN, l.PSH = true, true }) },
		"window":   func(d *datagram) { d.transport = tcp(func(l *layers.TCP) { l.Window = 999 }) },
	} {
		d := flow
		edit(&d)
		if got := sourcePort(t, m, d); got != want {
			t.Errorf("%s: port %d, the flow's is %d", kind, got, want)
		}
	}
}

// TestFragmentsSharePort: ports are in the first fragment alone, so no fragment is hashed on them.
func TestFragmentsSharePort(t *testing.T) {
	m := load(t, lab)
	for _, transport := range []gopacket.SerializableLayer{
		&layers.UDP{SrcPort: 40000, DstPort: 53}, &layers.TCP{SrcPort: 1, DstPort: 2}, &layers.SCTP{SrcPort: 3, DstPort: 4}, &layers.ICMPv4{Id: 5},
	} {
		fragment := datagram{src: c1, dst: remote2, transport: transport, flags: layers.IPv4MoreFragments}
		want := sourcePort(t, m, fragment)
		for offset := uint16(1); offset < 8191; offset = offset*2 + 1 {
			later := ipHeader(fragment.bytes()) // keeps the protocol; its transport header is now data
			binary.BigEndian.PutUint16(later[6:], 0x2000|offset)
			copy(later[ipv4Len:], pattern(8))
			later.setChecksum()
			_, out, err := m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, c1Sends(bridgeMAC, later))
			must(t, err)
			if got := binary.BigEndian.Uint16(out[atUDP:]); got != want {
				t.Errorf("%T at offset %d: port %d, the first fragment's is %d", transport, offset, got, want)
			}
		}
	}
}

// TestPortsSpread: ports of many flows fill the range evenly, whichever part of the flow differs.
// The hash has no secret, so the outcome is the same each time.
func TestPortsSpread(t *testing.T) {
	m := load(t, lab)
	remote := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 246, 0, byte(i)}) }
	const flows = 4096
	for kind, flow := range map[string]func(i int) datagram{
		"source port":      func(i int) datagram { return udpFlow(c1, remote2, uint16(32768+i), 53) },
		"destination port": func(i int) datagram { return udpFlow(c1, remote2, 40000, uint16(1+i)) },
		"both ports alike": func(i int) datagram { return udpFlow(c1, remote2, uint16(1+i), uint16(1+i)) },
		"address and port": func(i int) datagram { return udpFlow(c1, remote(i&255), uint16(40000+i>>8), 53) },
		"protocol and address, no ports": func(i int) datagram {
			return datagram{src: c1, dst: remote(i & 255), transport: &layers.UDP{}, flags: layers.IPv4MoreFragments, id: uint16(i)}
		},
	} {
		const buckets = 64 // by the upper bits of what is free, as a switch may choose a path
		var high, low [buckets]float64
		seen := map[uint16]bool{}
		for i := range flows {
			port := sourcePort(t, m, flow(i))
			if port < 49152 {
				t.Fatalf("%s: port %d is not in 49152 to 65535", kind, port)
			}
			seen[port] = true
			high[(port-49152)>>8]++
			low[port%buckets]++
		}
		if kind == "protocol and address, no ports" { // 256 flows of 16 packets
			if len(seen) < 240 || len(seen) > 256 {
				t.Errorf("%s: %d ports for 256 flows", kind, len(seen))
			}
			continue
		}
		// 4096 flows in 16384 ports: 3624 different ones are expected.
		if len(seen) < 3500 {
			t.Errorf("%s: %d ports for %d flows", kind, len(seen), flows)
		}
		for bits, counts := range map[string][buckets]float64{"upper": high, "lower": low} {
			// 63 degrees of freedom: 131 is passed by chance once in a million.
			if x := chiSquare(counts[:], flows/buckets); x > 131 {
				t.Errorf("%s: %s bits are unevenly spread, chi square %.0f", kind, bits, x)
			}
		}
	}
}

func chiSquare(counts []float64, expected float64) float64 {
	sum := 0.0
	for _, n := range counts {
		sum += (n - expected) * (n - expected) / expected
	}
	return sum
}

// TestIPIDsDiffer: the outer IP ID is drawn for each packet, as the kernel's tunnels do.
func TestIPIDsDiffer(t *testing.T) {
	m := load(t, lab)
	for _, r := range remotes {
		if r.node == node5 {
			continue
		}
		ids := map[uint16]bool{}
		for range 64 {
			_, out, err := m.run(bpf.DatapathProgramPROGRAM_FROM_HOST, fromHost(datagram{src: vtepAddr, dst: r.container}))
			must(t, err)
			ids[binary.BigEndian.Uint16(out[atIP+4:])] = true
		}
		if len(ids) < 60 {
			t.Errorf("%s: %d different IDs in 64 packets", r.name, len(ids))
		}
	}
}
