// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"math/rand"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestOuterFragments: a router that carries less than the hosts' uplinks (drawn
// at TestRoutedUnderlay) cuts tunnel packets without DF: all of VXLAN's, and of
// IPIP's those around a packet without it. The kernel puts them together, and its
// VXLAN device or the daemon's socket takes them: nothing is lost.
func TestOuterFragments(t *testing.T) {
	modes := append(both(topology.EncapVXLAN), mode{node.EBPF, topology.EncapIPIP})
	forEach(t, modes, routed, testOuterFragments)
}

func testOuterFragments(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	run(t, l.Wire(), "ip", "link", "set", "seg2", "mtu", "1400") // of the way to h2, not of the way back
	want := [2][]string{
		{containerEncapsulated, networkDelivered},
		{networkOuterFragment, networkOuterFragment, overlayChecked, containerEncapsulated},
	}
	const count = 3
	expectCounters(t, l, count, want, func() {
		df := "do"
		if l.Options.Backend == topology.EncapIPIP {
			df = "dont"
		}
		run(t, h1.Containers[0].NS, "ping", "-M", df, "-c", strconv.Itoa(count), "-i", "0.01", "-W", "5",
			"-s", strconv.Itoa(l.Options.ContainerMTU()-28), h2.Containers[0].Addr.String())
	})
}

// TestOuterFragmentsOfAProcess: h1's packets are copied by a process, as
// flanneld's are in udp mode, and have DF until its kernel knows that the router
// (as in TestOuterFragments) carries less; then it cuts them itself. h2 runs our
// programs.
func TestOuterFragmentsOfAProcess(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Underlay, o.Backend = lab.Routed, topology.EncapUDP })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	run(t, l.Wire(), "ip", "link", "set", "seg2", "mtu", "1400")
	noError(t, h1.StartDaemon(t.Context(), "--dataplane", string(node.Netlink)))
	noError(t, h2.StartDaemon(t.Context()))
	for _, h := range l.Hosts {
		learn(t, h)
		waitPeers(t, h, 1)
	}
	o := lab.PingOptions{Count: 1, Size: l.Options.ContainerMTU() - 28, Timeout: 100 * time.Millisecond}
	until(t, "packets of full size arrive", func() (bool, error) {
		r, err := h1.Containers[0].NS.Ping(t.Context(), h2.Containers[0].Addr, o)
		return r.Received == 1, err
	})
	before := counters(t, h2)
	o.Count, o.Timeout = 5, timeout
	ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, o)
	equal(t, "packets that h2's kernel has put together", uint64(5), counters(t, h2).Since(before)[counterKey(overlayChecked)])
}

// TestOuterFragmentsInAnyOrder sends h1 tunnel packets in many small fragments,
// in any order, from h2: each arrives once, whole, with the congestion that any
// of them has met. Of a sender that may not send it, none arrives.
//
//	as in TestOverlay; h2 is the wire's
func TestOuterFragmentsInAnyOrder(t *testing.T) {
	forEach(t, modesOf(node.EBPF, tunnels...), nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		to, remote := h1.Containers[0], h2.Containers[0].Addr
		random := rand.New(rand.NewSource(1))
		congested := func(ip *layers.IPv4) { ip.TOS = 3 }
		for name, test := range map[string]struct {
			outer   func(*layers.IPv4) // of the whole
			one     byte               // TOS of one fragment
			tos     byte               // of the packet that arrives
			dropped bool
		}{
			"whole":           {tos: 2},
			"congestion":      {outer: func(ip *layers.IPv4) { ip.TOS = 2 }, one: 3, tos: 3},
			"from a stranger": {outer: func(ip *layers.IPv4) { ip.SrcIP = []byte{192, 168, 32, 99} }, dropped: true},
		} {
			t.Run(name, func(t *testing.T) {
				listenPacket(t, to.NS, "udp4", netip.AddrPortFrom(to.Addr, 4000).String()) // else the container answers, by an ICMP error
				arrived := capture(t, to.NS, "eth0")
				payload := randomBytes(1000)
				packet := udpPacket(remote, to.Addr, 4000, 4000, payload, func(ip *layers.IPv4) { ip.TOS = 2 })
				if test.outer == nil {
					test.outer = func(*layers.IPv4) {}
				}
				fragments := fragmentsOf(t, tunnelPacket(t, l, h2, h1, packet, test.outer), 104)
				if test.one != 0 {
					fragments[3] = fragmentsOf(t, tunnelPacket(t, l, h2, h1, packet, congested), 104)[3]
				}
				random.Shuffle(len(fragments), func(i, j int) { fragments[i], fragments[j] = fragments[j], fragments[i] })
				before := counters(t, h1)
				for _, f := range fragments {
					sendToHost(t, l, h1, f)
				}
				// What comes after them has to find all that they have brought.
				ping(t, h2.Containers[0].NS, to.Addr, lab.PingOptions{Count: 1})
				if test.dropped {
					moved := counters(t, h1).Since(before)
					equal(t, "dropped", uint64(1), moved[counterKey("from_network drop/unknown_host")])
					equal(t, "let in", uint64(0), moved[counterKey(overlayChecked)])
					return
				}
				until(t, "it has arrived", func() (bool, error) {
					return counters(t, h1).Since(before)[counterKey(overlayChecked)] > 0, nil
				})
				ping(t, h1.NS, to.Addr, lab.PingOptions{Count: 1}) // by the same way, behind it
				var got [][]byte
				for _, p := range stop(t, arrived) {
					if d := lab.Decode(p); !p.Outgoing && len(d.UDP) > 0 && d.UDP[0].DstPort == 4000 {
						got = append(got, d.UDP[0].Payload)
						equal(t, "TTL and TOS", []uint8{63, test.tos}, []uint8{d.IPv4[0].TTL, d.IPv4[0].TOS})
					}
				}
				if !slices.EqualFunc(got, [][]byte{payload}, bytes.Equal) {
					t.Errorf("%d packets arrived, want the one that was sent", len(got))
				}
			})
		}
	})
}
