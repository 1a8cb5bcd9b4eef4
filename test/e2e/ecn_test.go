// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// testECN has a router of the underlay mark congestion on tunnel packets, and
// looks at what the container gets (RFC 6040, 4.2).
func testECN(t *testing.T, l *lab.Lab) {
	if l.Options.Backend == topology.EncapNone {
		return // no outer header to mark
	}
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h2.Containers[0], h1.Containers[0]
	for _, test := range []struct{ outer, inner, want uint8 }{
		{ect0, ect0, ect0}, {ce, ect0, ce}, {ce, ect1, ce}, {ect1, ect0, ect1}, {ect0, ce, ce}, {ect0, notECT, notECT},
	} {
		t.Run(fmt.Sprintf("outer %d inner %d", test.outer, test.inner), func(t *testing.T) {
			const dscp = 0xb8 // stays the packet's own
			packet := udpPacket(from.Addr, to.Addr, 4000, 4000, randomBytes(30), func(ip *layers.IPv4) { ip.TOS = dscp | test.inner })
			listenPacket(t, to.NS, "udp4", netip.AddrPortFrom(to.Addr, 4000).String()) // else the container answers, by an ICMP error
			c := capture(t, to.NS, "eth0")
			sendToHost(t, l, h1, tunnelPacket(t, l, h2, h1, packet, func(ip *layers.IPv4) { ip.TOS = test.outer }))
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			p, err := c.WaitFor(ctx, func(p lab.Packet) bool { return !p.Outgoing && len(lab.Decode(p).UDP) > 0 })
			noError(t, err)
			noError(t, lab.VerifyChecksums(p))
			if got := lab.Decode(p).IPv4[0].TOS; got != dscp|test.want {
				t.Errorf("TOS %#x, want %#x", got, dscp|test.want)
			}
		})
	}
}
