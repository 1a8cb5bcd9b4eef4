// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// testWire pings from a container to one of the other host, by the ping that
// everybody has, and compares the request and the reply on the wire between
// the hosts with what the kernel's own tunnels send (SCENARIOS A1, A2, A4).
func testWire(t *testing.T, l *lab.Lab) {
	if modeOf(l).outerChecksum() {
		for _, h := range l.Hosts {
			setChecksumOffload(t, h, lab.Uplink, false) // for the capture to hold them
			defer setChecksumOffload(t, h, lab.Uplink, true)
		}
	}
	for _, test := range []struct {
		args            []string
		request, reply  inner
		outerTOS, bytes int // on the wire, DSCP not copied, ECN as RFC 6040, 4.1
	}{
		{args: nil, request: inner{ttl: 63, df: true}, bytes: 98},
		{args: []string{"-M", "dont"}, request: inner{ttl: 63}, bytes: 98},
		{args: []string{"-s", "1"}, request: inner{ttl: 63, df: true}, bytes: 43},
		{args: []string{"-t", "17"}, request: inner{ttl: 16, df: true}, bytes: 98},
		{args: []string{"-Q", "0xb8"}, request: inner{ttl: 63, df: true, tos: 0xb8}, bytes: 98},
		{args: []string{"-Q", "0x02"}, request: inner{ttl: 63, df: true, tos: 2}, outerTOS: 2, bytes: 98},
		{args: []string{"-Q", "0xb9"}, request: inner{ttl: 63, df: true, tos: 0xb9}, outerTOS: 1, bytes: 98},
		{args: []string{"-Q", "0x03"}, request: inner{ttl: 63, df: true, tos: 3}, outerTOS: 2, bytes: 98},
	} {
		t.Run(fmt.Sprint("ping", test.args), func(t *testing.T) {
			h1, h2 := l.Hosts[0], l.Hosts[1]
			from, to := h1.Containers[0], h2.Containers[0]
			request, reply := pingOnWire(t, l, from.NS, to.Addr, test.args...)
			in := test.request
			in.src, in.dst, in.icmp, in.length = from.Addr, to.Addr, "EchoRequest", test.bytes-14
			in.ttl -= modeOf(l).copied()
			equal(t, "request", wireLines(t, l, h1, h2, in, test.outerTOS), describe(request))
			// The kernel answers by the TOS it was asked by, and leaves fragmenting to the routers.
			in = inner{src: to.Addr, dst: from.Addr, icmp: "EchoReply", length: in.length, ttl: 63 - modeOf(l).copied(), tos: in.tos}
			equal(t, "reply", wireLines(t, l, h2, h1, in, test.outerTOS), describe(reply))
			if pattern := summaries[l.Options.Backend]; !regexp.MustCompile(pattern).MatchString(lab.Summary(reply)) {
				t.Errorf("tcpdump's line is %q, want %s", lab.Summary(reply), pattern)
			}
		})
	}
}

// summaries are the replies as tcpdump shows them (A2 has ipip's in words).
var summaries = map[topology.Encap]string{
	topology.EncapVXLAN: `^IP 192\.168\.32\.246\.\d+ > 192\.168\.32\.245\.8472: VXLAN, flags \[I\] \(0x08\), vni 1\n` +
		`IP 172\.246\.0\.2 > 172\.245\.0\.2: ICMP echo reply, id \d+, seq 1, length \d+$`,
	topology.EncapIPIP: `^IP 192\.168\.32\.246 > 192\.168\.32\.245: ` +
		`IP 172\.246\.0\.2 > 172\.245\.0\.2: ICMP echo reply, id \d+, seq 1, length \d+ \(ipip-proto-4\)$`,
	topology.EncapUDP: `^IP 192\.168\.32\.246\.8285 > 192\.168\.32\.245\.8285: UDP, length \d+\n` +
		`IP 172\.246\.0\.2 > 172\.245\.0\.2: ICMP echo reply, id \d+, seq 1, length \d+$`,
	topology.EncapNone: `^IP 172\.246\.0\.2 > 172\.245\.0\.2: ICMP echo reply, id \d+, seq 1, length \d+$`,
}

// testBare: what the hosts themselves say to each other is not encapsulated.
func testBare(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	request, reply := pingOnWire(t, l, h1.NS, h2.Addr)
	for _, p := range []lab.Packet{request, reply} {
		if d := lab.Decode(p); p.Len != 98 || len(d.IPv4) != 1 || len(d.UDP) != 0 {
			t.Errorf("%q", describe(p))
		}
	}
}

// pingOnWire sends one ping and returns its request and its reply as they were
// on both hosts' uplinks: alike, whole, checksums right, and nothing beside them.
func pingOnWire(t *testing.T, l *lab.Lab, from lab.Namespace, to netip.Addr, args ...string) (request, reply lab.Packet) {
	t.Helper()
	var captures []*lab.Capture
	for _, h := range l.Hosts {
		captures = append(captures, capture(t, h.NS, lab.Uplink))
	}
	run(t, from, append(append([]string{"ping", "-c", "1", "-W", "5"}, args...), to.String())...)
	var wire [][]lab.Packet
	for i, c := range captures {
		packets := traffic(stop(t, c))
		verify(t, l.Hosts[i].Name, packets)
		if len(packets) != 2 {
			t.Fatalf("%d packets on the uplink of %s, want request and reply: %q", len(packets), l.Hosts[i].Name, describeAll(packets))
		}
		wire = append(wire, packets)
	}
	for i := range wire[0] {
		if !bytes.Equal(wire[0][i].Data, wire[1][i].Data) {
			t.Errorf("sent\n%x, arrived\n%x", wire[0][i].Data, wire[1][i].Data)
		}
	}
	return wire[0][0], wire[0][1]
}

func describeAll(packets []lab.Packet) (all [][]string) {
	for _, p := range packets {
		all = append(all, describe(p))
	}
	return all
}

// inner is what a container sent, as it is on the wire between the hosts.
type inner struct {
	src, dst netip.Addr
	ttl, tos int
	df       bool
	length   int // of the IP packet, bytes
	icmp     string
}

// wireLines is what describe has to say of an inner packet on its way between hosts.
func wireLines(t *testing.T, l *lab.Lab, from, to *lab.Host, in inner, outerTOS int) []string {
	t.Helper()
	lines := []string{
		fmt.Sprintf("%d bytes", 14+l.Options.Overhead()+in.length),
		fmt.Sprintf("Ethernet %s > %s IPv4", mac(t, from, lab.Uplink), mac(t, to, lab.Uplink)),
	}
	outer := func(ttl int, df bool, protocol layers.IPProtocol) string {
		return ipLine(from.Addr, to.Addr, ttl, outerTOS, df, protocol, in.length+l.Options.Overhead())
	}
	switch l.Options.Backend {
	case topology.EncapVXLAN:
		lines = append(lines,
			outer(64, false, layers.IPProtocolUDP),
			udpLine("dynamic", 8472, in.length+30, modeOf(l).outerChecksum()),
			"VXLAN 0800000000000100", // I flag, VNI 1
			fmt.Sprintf("Ethernet %s > %s IPv4", mac(t, from, "bpfnet0"), mac(t, to, "bpfnet0")))
	case topology.EncapIPIP:
		lines = append(lines, outer(in.ttl, in.df, layers.IPProtocolIPv4))
	case topology.EncapUDP:
		lines = append(lines,
			outer(64, true, layers.IPProtocolUDP),
			udpLine("8285", 8285, in.length+8, modeOf(l).outerChecksum()))
	}
	return append(lines,
		ipLine(in.src, in.dst, in.ttl, in.tos, in.df, layers.IPProtocolICMPv4, in.length),
		"ICMP "+in.icmp)
}
