// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// jumboSites are one of each way that packets travel.
var jumboSites = append([]site{
	{backend: topology.EncapVXLAN, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
	{backend: topology.EncapIPIP, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
	{backend: topology.EncapUDP, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
	{backend: topology.EncapNone, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
	{backend: topology.EncapVXLAN, inner: lab.V4, outer: lab.V4, dataplanes: bothNetlink},
	{backend: topology.EncapUDP, inner: lab.V4, outer: lab.V4, dataplanes: bothNetlink},
}, sitesV6...)

// TestJumbo has uplinks of the largest MTU that there is, then of the usual jumbo
// one, and where there is a tunnel a node of it beside one without, behind a router:
//
//	h1 ── seg1, MTU 65535, 9000 ── router ── seg2, MTU 65535, 9000, 1500 ── h2
func TestJumbo(t *testing.T) {
	forEachSite(t, jumboSites, func(o *lab.Options) {
		o.MTU, o.Containers = 65535, 1
		if o.Backend != topology.EncapNone {
			o.Underlay = lab.Routed
		}
	}, func(t *testing.T, l *lab.Lab) {
		for _, mtu := range []int{65535, 9000} {
			t.Run(fmt.Sprint(mtu), func(t *testing.T) { testJumbo(t, l, mtu) })
		}
		if l.Options.Underlay == lab.Routed {
			t.Run("9000 and 1500", func(t *testing.T) { testMixedMTUs(t, l) })
		}
	})
}

// longestPacket is the longest packet on an underlay of an MTU: with a tunnel none of
// more than 15,600 bytes is made (maxTunnelled of package node).
func longestPacket(l *lab.Lab, mtu int) int {
	if l.Options.Backend == topology.EncapNone {
		return mtu
	}
	return min(mtu, 15600)
}

// resize changes the MTU of a host's link to the underlay, and of its containers'
// as an operator does who reads subnet.env; the daemon follows.
func resize(t *testing.T, l *lab.Lab, h *lab.Host, mtu int) {
	t.Helper()
	inner := longestPacket(l, mtu) - l.Options.Overhead()
	if l.Options.Underlay == lab.Routed {
		run(t, l.Wire(), "ip", "link", "set", fmt.Sprintf("seg%d", h.Segment), "mtu", fmt.Sprint(mtu))
	}
	run(t, l.Wire(), "ip", "link", "set", h.Name, "mtu", fmt.Sprint(mtu))
	run(t, h.NS, "ip", "link", "set", lab.Uplink, "mtu", fmt.Sprint(mtu))
	for _, c := range h.Containers {
		run(t, h.NS, "ip", "link", "set", c.Veth, "mtu", fmt.Sprint(inner))
		run(t, c.NS, "ip", "link", "set", "eth0", "mtu", fmt.Sprint(inner))
	}
	run(t, h.NS, "ip", "link", "set", h.Bridge, "mtu", fmt.Sprint(inner))
	until(t, fmt.Sprintf("%s serves MTU %d", h.Name, inner), func() (bool, error) {
		s, err := h.DaemonStatus(t.Context())
		return err == nil && s.Ready && s.MTU == inner && len(s.Peers) == len(l.Hosts)-1, err
	})
}

// testJumbo sends datagrams of 1 byte to 64 KB and a TCP stream both ways, with the
// devices' offloads and without. The largest packet fills the wire, and none is too long for it.
func testJumbo(t *testing.T, l *lab.Lab, underlay int) {
	f, mtu := l.Options.Inner, longestPacket(l, underlay)-l.Options.Overhead()
	h1, h2 := l.Hosts[0], l.Hosts[1]
	for _, h := range l.Hosts {
		resize(t, l, h, underlay)
		until(t, fmt.Sprintf("subnet.env of %s says MTU %d", h.Name, mtu), func() (bool, error) {
			env, err := store.ReadSubnetEnv(h.SubnetFile())
			return env.MTU == mtu, err
		})
		waitEndpoints(t, h, 1)
	}
	waitPathMTU(t, l, h1, h2, mtu, " dev ")
	waitPathMTU(t, l, h2, h1, mtu, " dev ")
	from, to := h1.Containers[0], h2.Containers[0]
	fits := mtu - icmpHeaders[f] // ICMP's header is as long as UDP's
	for _, on := range []bool{true, false} {
		for _, h := range l.Hosts {
			for _, i := range []iface{{h.NS, lab.Uplink}, {h.Containers[0].NS, "eth0"}} {
				noError(t, setFeatures(i, map[string]bool{
					"tx-checksum-ip-generic": on, "tx-generic-segmentation": on, "tx-tcp-segmentation": on,
					"tx-tcp6-segmentation": on, "tx-udp-segmentation": on,
				}))
			}
		}
		wire := capture(t, h1.NS, lab.Uplink)
		for _, way := range [][2]*lab.Container{{from, to}, {to, from}} {
			sendDatagrams(t, way[0].NS, way[1].NS, way[1].In(f), 1, 100, fits-1, fits, min(fits+1, largestDatagram[f]), 30000, largestDatagram[f])
			transfer(t, way[0].NS, way[1].NS, way[1].In(f), 2<<20)
		}
		longest := map[bool]int{}
		for _, p := range traffic(stop(t, wire)) {
			d := lab.Decode(p)
			switch {
			case len(d.IP) == 0: // ARP
				continue
			case p.GSOSize > fits:
				t.Errorf("segments of %d bytes do not fit: %q", p.GSOSize, describe(p))
			case p.GSOSize > 0 && !on && p.Outgoing:
				t.Errorf("left uncut: %q", describe(p))
			case p.GSOSize == 0 && d.IP[0].Length != p.Len-14:
				t.Errorf("IP header says %d bytes, the frame has %d behind Ethernet's: %q", d.IP[0].Length, p.Len-14, describe(p))
			}
			if p.GSOSize == 0 {
				longest[p.Outgoing] = max(longest[p.Outgoing], p.Len)
			}
		}
		equal(t, fmt.Sprintf("longest frames, by whether they left, offloads %v", on),
			map[bool]int{false: 14 + longestPacket(l, underlay), true: 14 + longestPacket(l, underlay)}, longest)
	}
}

// largestDatagram is what an IP packet can carry in UDP, bytes (RFC 791, RFC 8200).
var largestDatagram = map[lab.Families]int{lab.V4: 65535 - 20 - 8, lab.V6: 65535 - 8}

// testMixedMTUs: h2's part of the underlay carries less than h1's. The router
// between them tells h1, or cuts what may be cut: soon everything arrives.
func testMixedMTUs(t *testing.T, l *lab.Lab) {
	f := l.Options.Inner
	h1, h2 := l.Hosts[0], l.Hosts[1]
	resize(t, l, h2, 1500)
	from, to := h1.Containers[0], h2.Containers[0]
	o := lab.PingOptions{Count: 1, Size: 9000 - l.Options.Overhead() - icmpHeaders[f], Timeout: 100 * time.Millisecond}
	until(t, "packets as large as h1's containers may send arrive", func() (bool, error) {
		r, err := from.NS.Ping(t.Context(), to.In(f), o)
		return r.Received == 1, err
	})
	sizes := []int{1, 1400, 1500, 8000, 30000, largestDatagram[f]}
	sendDatagrams(t, from.NS, to.NS, to.In(f), sizes...)
	transfer(t, from.NS, to.NS, to.In(f), 2<<20)
	slices.Reverse(sizes)
	sendDatagrams(t, to.NS, from.NS, from.In(f), sizes...)
	transfer(t, to.NS, from.NS, from.In(f), 2<<20)
}
