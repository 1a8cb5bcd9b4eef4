// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// superpacket is one skb of a TCP stream with payload.
type superpacket struct {
	Seq     uint32 // of the first byte
	Payload int    // bytes
	GSO     int    // bytes of each segment, 0 where it is a plain packet
}

// testStream sends 8 MiB over one TCP connection, from containers and from the
// host, and follows each skb from where the sender made it to where the
// receiver got it: the same skbs have to pass everywhere, none cut or merged,
// most of them far larger than the MTU. In udp mode they are cut on the way to the wire.
func testStream(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[1]
	family := l.Options.Inner
	// The MTU less IP's header, 20 bytes of TCP's and 12 of its timestamps.
	segment := l.Options.ContainerMTU() - map[lab.Families]int{lab.V4: 20, lab.V6: 40}[family] - 32
	for name, points := range map[string][]point{
		"container to container": {{from.NS, "eth0", true}, {h1.NS, lab.Uplink, true}, {h2.NS, lab.Uplink, false}, {to.NS, "eth0", false}},
		"host to container":      {{h1.NS, lab.Uplink, true}, {h2.NS, lab.Uplink, false}, {to.NS, "eth0", false}},
	} {
		t.Run(name, func(t *testing.T) {
			const size = 8 << 20
			var captures []*lab.Capture
			for _, p := range points {
				captures = append(captures, capture(t, p.ns, p.iface))
			}
			sender := points[0].ns
			noError(t, lab.TransferTCP(t.Context(), sender, to.NS, to.In(family), size))
			var made []superpacket
			for i, c := range captures {
				packets := stop(t, c)
				verify(t, string(points[i].ns), packets)
				seen := superpackets(packets, points[i].outgoing)
				where := fmt.Sprintf("%s of %s", points[i].iface, points[i].ns)
				if modeOf(l).cuts() && points[i].ns != from.NS {
					checkCut(t, where, seen, size, segment)
					if points[i].ns != to.NS { // which has its own answers unfinished there
						checkSummed(t, l, where, packets)
					}
					continue
				}
				if i == 0 {
					made = seen
					checkStream(t, seen, size, segment)
				}
				equal(t, "skbs at "+where, made, seen)
			}
		})
	}
}

// point is where packets of one direction are captured.
type point struct {
	ns       lab.Namespace
	iface    string
	outgoing bool
}

// checkStream holds a stream to its size and its skbs to the largest segment.
func checkStream(t *testing.T, stream []superpacket, size, segment int) {
	t.Helper()
	total, large := 0, 0
	for _, s := range stream {
		total += s.Payload
		if s.Payload > segment {
			large += s.Payload
			if s.GSO != segment {
				t.Errorf("skb of %d bytes has segments of %d, want %d", s.Payload, s.GSO, segment)
			}
		}
	}
	if total < size || large < size*9/10 {
		t.Errorf("%d bytes sent, %d of them in superpackets; want all %d, and at least 9 of 10 in superpackets", total, large, size)
	}
}

// checkCut holds a stream to its size where it goes in packets that fit the MTU.
func checkCut(t *testing.T, where string, stream []superpacket, size, segment int) {
	t.Helper()
	total := 0
	for _, s := range stream {
		total += s.Payload
		if s.Payload > segment || s.GSO != 0 {
			t.Errorf("at %s: skb of %d bytes, want segments of %d at most", where, s.Payload, segment)
		}
	}
	if total < size {
		t.Errorf("at %s: %d bytes of %d", where, total, size)
	}
}

// checkSummed: what a process may read out of the tunnel has its checksum. (The
// outer one of the processes' own is left to the NIC.)
func checkSummed(t *testing.T, l *lab.Lab, where string, packets []lab.Packet) {
	t.Helper()
	for _, p := range packets {
		if p.Partial && modeOf(l).copied() == 0 && !isEtcd(p) {
			t.Errorf("at %s: checksum left to be filled in: %q", where, describe(p))
		}
	}
}

// superpackets are the TCP payload among packets of one direction, in the order
// of the stream: what two CPUs carry may overtake.
func superpackets(packets []lab.Packet, outgoing bool) (all []superpacket) {
	for _, p := range packets {
		d := lab.Decode(p)
		if p.Outgoing != outgoing || len(d.TCP) == 0 || isEtcd(p) {
			continue
		}
		ip, tcp := d.IP[len(d.IP)-1], d.TCP[0]
		if n := ip.PayloadLength() - 4*int(tcp.DataOffset); n > 0 {
			all = append(all, superpacket{tcp.Seq, n, p.GSOSize})
		}
	}
	slices.SortFunc(all, func(a, b superpacket) int { return cmp.Or(int(int32(a.Seq-b.Seq)), a.Payload-b.Payload) }) // numbers wrap
	return all
}

// testDatagramSuperpackets sends datagrams that the sender hands to its kernel 20
// at a time (UDP GSO). They leave the host as they are, but for udp mode, and
// arrive as datagrams.
func testDatagramSuperpackets(t *testing.T, l *lab.Lab) {
	if kernelBefore(t, 6, 2) && !modeOf(l).cuts() {
		t.Skip("packet sockets show UDP superpackets from kernel 6.2 on (include/linux/virtio_net.h)")
	}
	h1, h2 := l.Hosts[0], l.Hosts[1]
	to := h2.Containers[0]
	for name, from := range map[string]lab.Namespace{"container": h1.Containers[0].NS, "host": h1.NS} {
		t.Run(name, func(t *testing.T) {
			if from == h1.NS && modeOf(l).cuts() && kernelBefore(t, 6, 11) {
				t.Skip("UDP GSO needs a device that sums until kernel 6.11 (udp_send_skb of net/ipv4/udp.c)")
			}
			wire := capture(t, h1.NS, lab.Uplink)
			o := lab.UDPOptions{Count: 40, Size: 1000, Segments: 20}
			n, err := lab.TransferUDP(t.Context(), from, to.NS, to.Addr, o)
			noError(t, err)
			equal(t, "datagrams that arrived", o.Count, n)
			var sizes [][2]int
			packets := traffic(stop(t, wire))
			verify(t, h1.Name, packets)
			for _, p := range packets {
				sizes = append(sizes, [2]int{p.Len, p.GSOSize})
			}
			want := slices.Repeat([][2]int{{14 + l.Options.Overhead() + 28 + 20*1000, 1000}}, 2)
			if modeOf(l).cuts() {
				want = slices.Repeat([][2]int{{14 + l.Options.Overhead() + 28 + 1000, 0}}, o.Count)
				checkSummed(t, l, h1.Name, packets)
			}
			equal(t, "lengths on the wire, and of segments", want, sizes)
		})
	}
}

// testSegmented does without the offloads of the uplinks, as a NIC does that knows
// no tunnels: the kernel then cuts each superpacket and fills in every checksum
// behind our encapsulation, and all of that has to be right on the wire.
func testSegmented(t *testing.T, l *lab.Lab) {
	for _, h := range l.Hosts {
		setChecksumOffload(t, h, lab.Uplink, false)
		defer setChecksumOffload(t, h, lab.Uplink, true)
	}
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[0]
	wire := []*lab.Capture{capture(t, h1.NS, lab.Uplink), capture(t, h2.NS, lab.Uplink)}
	const size = 1 << 20
	noError(t, lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, size))
	o := lab.UDPOptions{Count: 40, Size: 1000, Segments: 20}
	if n, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, o); err != nil || n != o.Count {
		t.Errorf("%d of %d datagrams arrived, error %v", n, o.Count, err)
	}
	for i, c := range wire {
		packets := traffic(stop(t, c))
		verify(t, l.Hosts[i].Name, packets)
		for _, p := range packets {
			if p.Outgoing && (p.Len > 1514 || p.GSOSize != 0 || p.Partial) {
				t.Errorf("left %s uncut or without its checksum: %q", l.Hosts[i].Name, describe(p))
			}
		}
		payload := 0
		for _, s := range superpackets(packets, i == 0) {
			payload += s.Payload
		}
		if payload < size {
			t.Errorf("%d bytes of the stream on the uplink of %s, want %d", payload, l.Hosts[i].Name, size)
		}
		checkSegments(t, l, packets)
	}
}

// checkSegments: each segment has an outer header of its own, with its own
// length; those of one flow share a source port, so that they share a path.
func checkSegments(t *testing.T, l *lab.Lab, packets []lab.Packet) {
	t.Helper()
	ports := map[string]map[layers.UDPPort]bool{}
	for _, p := range packets {
		d := lab.Decode(p)
		if p.GSOSize == 0 && int(d.IPv4[0].Length) != p.Len-14 {
			t.Errorf("outer IP header says %d bytes, the frame has %d: %q", d.IPv4[0].Length, p.Len, describe(p))
		}
		if l.Options.Backend != topology.EncapVXLAN {
			continue
		}
		flow := flowOf(d)
		if ports[flow] == nil {
			ports[flow] = map[layers.UDPPort]bool{}
		}
		ports[flow][d.UDP[0].SrcPort] = true
	}
	for flow, used := range ports {
		if len(used) != 1 {
			t.Errorf("flow %s has outer source ports %v, want one", flow, used)
		}
	}
}

// flowOf is the flow of an inner packet: addresses, protocol, ports.
func flowOf(d lab.Decoded) string {
	ip := d.IPv4[len(d.IPv4)-1]
	return fmt.Sprint(ip.SrcIP, ip.DstIP, ip.Protocol, binary.BigEndian.Uint32(ip.Payload))
}
