// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// sitesV6 have IPv6 inside, outside, or both.
var sitesV6 = []site{
	{backend: topology.EncapVXLAN, inner: lab.V6, outer: lab.V6, dataplanes: bothEBPF},
	{backend: topology.EncapIPIP, inner: lab.V6, outer: lab.V6, dataplanes: bothEBPF},
	{backend: topology.EncapIPIP, inner: lab.V6, outer: lab.V4, dataplanes: bothEBPF},
	{backend: topology.EncapIPIP, inner: lab.V4, outer: lab.V6, dataplanes: bothEBPF},
	{backend: topology.EncapNone, inner: lab.V6, outer: lab.V6, dataplanes: bothEBPF},
	{backend: topology.EncapVXLAN, inner: lab.V6, outer: lab.V6, dataplanes: bothNetlink},
	{backend: topology.EncapNone, inner: lab.V6, outer: lab.V6, dataplanes: bothNetlink},
}

// tunnelled are the sites where a header is added.
func tunnelled(sites []site) (all []site) {
	for _, s := range sites {
		if s.backend != topology.EncapNone {
			all = append(all, s)
		}
	}
	return all
}

// forEachSite runs a test on a lab of each, whose hosts are alike, its containers known.
func forEachSite(t *testing.T, sites []site, change func(*lab.Options), f func(*testing.T, *lab.Lab)) {
	for _, s := range sites {
		t.Run(s.String(), func(t *testing.T) {
			l := up(t, func(o *lab.Options) {
				o.Backend, o.Inner, o.Outer, o.Dataplane = s.backend, s.inner, s.outer, s.dataplanes[0]
				if change != nil {
					change(o)
				}
			})
			serveAll(t, l)
			f(t, l)
		})
	}
}

// TestIPv6Paths holds what is true of every way that IPv6 travels, topology as TestOverlay.
func TestIPv6Paths(t *testing.T) {
	forEachSite(t, sitesV6, nil, func(t *testing.T, l *lab.Lab) {
		t.Run("hops", func(t *testing.T) { testHops(t, l) })
		t.Run("narrow path", func(t *testing.T) { testNarrowPath(t, l) })
	})
}

// testHops traces the route from a container to a remote one, as traceroute does:
// where the hop limit ends, the host there answers, and behind it the container itself.
func testHops(t *testing.T, l *lab.Lab) {
	f := l.Options.Inner
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[1]
	for limit, answers := range map[int][]netip.Addr{
		1: {h1.GatewayOf(f)},
		2: {h2.GatewayOf(f), h2.Node(f), h2.SubnetOf(f).Addr()}, // whichever the kernel chooses
	} {
		t.Run(fmt.Sprint("hop limit ", limit), func(t *testing.T) {
			c := capture(t, from.NS, "eth0")
			out, err := from.NS.Run(t.Context(), "ping", "-c", "1", "-W", "5", "-t", fmt.Sprint(limit), to.In(f).String())
			if err == nil {
				t.Errorf("answered by the container itself: %s", out)
			}
			all := icmpErrors(t, stop(t, c))
			for i, e := range all {
				if slices.Contains(answers, e.From) {
					all[i].From = netip.Addr{}
				}
			}
			equal(t, "errors, the right host's address left out", []icmpError{{What: "hop limit exceeded"}}, all, addresses)
		})
	}
	run(t, from.NS, "ping", "-c", "1", "-W", "5", "-t", "3", to.In(f).String())
}

// icmpError is an ICMP or ICMPv6 error.
type icmpError struct {
	From netip.Addr
	What string
	MTU  int // of what fits, bytes, where What is "too big"
}

// icmpErrors are those that came in (RFC 792 and 1191, RFC 4443), their checksums right.
func icmpErrors(t *testing.T, packets []lab.Packet) (all []icmpError) {
	t.Helper()
	for _, p := range packets {
		d := lab.Decode(p)
		if p.Outgoing || len(d.ICMP)+len(d.ICMPv6) == 0 {
			continue
		}
		e := icmpError{From: d.IP[0].Src}
		if len(d.ICMP) > 0 {
			switch code := d.ICMP[0].TypeCode; {
			case code.Type() == layers.ICMPv4TypeEchoRequest || code.Type() == layers.ICMPv4TypeEchoReply:
				continue
			case code == layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded):
				e.What, e.MTU = "too big", int(d.ICMP[0].Seq)
			case code == layers.CreateICMPv4TypeCode(layers.ICMPv4TypeTimeExceeded, layers.ICMPv4CodeTTLExceeded):
				e.What = "hop limit exceeded"
			default:
				e.What = code.String()
			}
		} else {
			switch code := d.ICMPv6[0].TypeCode; {
			case code.Type() >= layers.ICMPv6TypeEchoRequest: // nor what neighbours and multicast routers say
				continue
			case code.Type() == layers.ICMPv6TypePacketTooBig:
				e.What, e.MTU = "too big", int(binary.BigEndian.Uint32(d.ICMPv6[0].Payload))
			case code == layers.CreateICMPv6TypeCode(layers.ICMPv6TypeTimeExceeded, layers.ICMPv6CodeHopLimitExceeded):
				e.What = "hop limit exceeded"
			default:
				e.What = code.String()
			}
		}
		noError(t, lab.VerifyChecksums(p))
		all = append(all, e)
	}
	return all
}
