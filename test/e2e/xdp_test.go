// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/test/lab"
)

// xdpFlags are what daemons are started with for a mode. Generic mode spreads
// IPIP over the CPUs; native mode does not on veth, which the daemon says.
func xdpFlags(m xdp.Mode) []string {
	flags := []string{"--xdp", string(m)}
	if m == xdp.Generic {
		flags = append(flags, "--xdp-cpus", "0-1")
	}
	return flags
}

// TestXDP has from_wire on the uplinks of each site of one family with a tunnel (topology as TestOverlay). What generic
// mode does does not depend on whether one family is in the other.
func TestXDP(t *testing.T) {
	for _, m := range []xdp.Mode{xdp.Native, xdp.Generic} {
		t.Run(string(m), func(t *testing.T) {
			for _, s := range tunnelled(sites) {
				if s.dataplanes != bothEBPF || s.inner == lab.Dual || m == xdp.Generic && s.inner != s.outer {
					continue
				}
				t.Run(s.String(), func(t *testing.T) { testXDP(t, s, m) })
			}
		})
	}
}

func testXDP(t *testing.T, s site, m xdp.Mode) {
	l := s.upXDP(t, m, lab.Defaults().MTU)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *lab.Lab, xdp.Mode)
	}{
		{"status", testXDPStatus},
		{"paths", testXDPPaths},
		{"forged", testXDPForged},
		{"mark", testXDPMark},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, l, m) })
	}
	if s.inner == lab.V4 && s.outer == lab.V4 {
		t.Run("fragments", func(t *testing.T) { testFragmentsOutOfOrder(t, l) })
		t.Run("ecn", func(t *testing.T) { testECN(t, l) })
	}
	t.Run("stream", func(t *testing.T) {
		c1, c2 := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
		transfer(t, c1.NS, c2.NS, c2.In(s.inner), 16<<20)
		transfer(t, c2.NS, c1.NS, c1.In(s.inner), 16<<20)
		transfer(t, l.Hosts[1].NS, c1.NS, c1.In(s.inner), 4<<20)
	})
}

// upXDP is the site, its daemons started with XDP, all containers known.
func (s site) upXDP(t *testing.T, m xdp.Mode, mtu int) *lab.Lab {
	t.Helper()
	l := up(t, func(o *lab.Options) { o.Backend, o.Inner, o.Outer, o.MTU = s.backend, s.inner, s.outer, mtu })
	startDaemons(t, l, xdpFlags(m)...)
	for _, h := range l.Hosts {
		for _, c := range h.Containers {
			ping(t, c.NS, h.GatewayOf(s.inner), lab.PingOptions{Count: 1})
		}
		waitEndpoints(t, h, len(h.Containers))
	}
	return l
}

// TestXDPJumbo has packets in several buffers: larger than a page.
func TestXDPJumbo(t *testing.T) {
	for _, s := range []site{
		{topology.EncapVXLAN, lab.V6, lab.V6, bothEBPF},
		{topology.EncapIPIP, lab.V6, lab.V4, bothEBPF},
	} {
		t.Run(s.String(), func(t *testing.T) {
			l := s.upXDP(t, xdp.Native, 9000)
			c1, c2 := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
			whole := l.Options.ContainerMTU() - ipHeader(s.inner) - 8
			expectCarried(t, l.Hosts[1], 3, wireCounters(l, xdp.Native, networkDelivered), func() {
				sendDatagrams(t, c1.NS, c2.NS, c2.In(s.inner), whole, whole-1, 4096)
			})
			transfer(t, c1.NS, c2.NS, c2.In(s.inner), 16<<20)
			transfer(t, c2.NS, c1.NS, c1.In(s.inner), 16<<20)
		})
	}
}

// TestXDPOuterChecksum: the kernel's vxlan device over IPv6 sends UDP checksums. Where the inner packet's is the NIC's to
// make, the outer one is right already, and tells from_wire so; where the inner one is made, the outer one is the NIC's,
// and on a veth still to be made: that packet is left to tc.
func TestXDPOuterChecksum(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Inner, o.Outer = lab.V6, lab.V6 })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	noError(t, h1.StartDaemon(t.Context(), "--dataplane", "netlink"))
	noError(t, h2.StartDaemon(t.Context(), xdpFlags(xdp.Native)...))
	waitPeers(t, h1, 1)
	waitPeers(t, h2, 1)
	from, to := h1.Containers[0], h2.Containers[0]
	ping(t, h2.NS, to.Addr6, lab.PingOptions{Count: 1})
	ping(t, from.NS, to.Addr6, lab.PingOptions{Count: 1})
	waitEndpoints(t, h2, 1)
	const count = 5
	expectCarried(t, h2, count, []string{"from_wire pass/checked", networkDelivered}, func() {
		ping(t, from.NS, to.Addr6, lab.PingOptions{Count: count, Interval: time.Millisecond})
	})
	expectCarried(t, h2, 1, []string{"from_wire forward/decapsulated", networkDelivered}, func() {
		sendDatagrams(t, from.NS, to.NS, to.Addr6, 1000)
	})
	transfer(t, from.NS, to.NS, to.Addr6, 16<<20)
	transfer(t, to.NS, from.NS, from.Addr6, 16<<20)
}

// wireCounters are those that from_wire and from_network move for a tunnel
// packet, given what from_network does with it in any case.
func wireCounters(l *lab.Lab, m xdp.Mode, network ...string) []string {
	switch {
	case m == xdp.Native:
		return append(network, "from_wire forward/decapsulated")
	case l.Options.Backend == topology.EncapIPIP:
		return append(network, "from_wire forward/spread")
	}
	return append(network, "from_wire pass/checked")
}

// carried is what a host's programs that receive have done with packets of the overlay.
func carried(c lab.Counters) lab.Counters {
	of := lab.Counters{}
	for k, n := range c {
		ours := k.Verdict != "pass" || k.Reason == "checked"
		if ours && (k.Program == "from_wire" || k.Program == "from_network" || k.Program == "from_overlay") {
			of[k] = n
		}
	}
	return of
}

// expectCarried fails the test unless f has a host's receiving programs count exactly these, count times each.
func expectCarried(t *testing.T, h *lab.Host, count int, want []string, f func()) {
	t.Helper()
	before := counters(t, h)
	f()
	exact := lab.Counters{}
	for _, k := range want {
		exact[counterKey(k)] += uint64(count)
	}
	equal(t, "counters of "+h.Name, exact, carried(counters(t, h).Since(before)))
}

func testXDPStatus(t *testing.T, l *lab.Lab, m xdp.Mode) {
	for _, h := range l.Hosts {
		s, err := h.DaemonStatus(t.Context())
		noError(t, err)
		want := xdp.Choice{Mode: m, Why: "as told"}
		if m == xdp.Generic && l.Options.Backend == topology.EncapIPIP {
			want.CPUs = []uint16{0, 1}
		}
		equal(t, "status", &want, s.XDP)
		if out := bpfnet(t, h, "status"); !strings.Contains(out, want.String()) {
			t.Errorf("%q is not in what status prints:\n%s", want, out)
		}
		waitProblems(t, h)
	}
}

// testXDPPaths sends pings and datagrams of all sizes everywhere, while somebody
// captures on the uplink and while nobody does.
func testXDPPaths(t *testing.T, l *lab.Lab, m xdp.Mode) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	c1, c2, f := h1.Containers[0], h2.Containers[0], l.Options.Inner
	mtu, headers := l.Options.ContainerMTU(), ipHeader(f)+8
	sizes := []int{1, 100, mtu - headers, mtu - headers + 1, 5000, 30000}
	packets := 0
	for _, size := range sizes {
		packets += fragmentCountOf(f, size, mtu)
	}
	for _, path := range []struct {
		name string
		from lab.Namespace
		to   lab.Namespace
		addr netip.Addr
		ttl  int
		want []string
	}{
		{"container to container", c1.NS, c2.NS, c2.In(f), 62, []string{networkDelivered}},
		{"host to container", h1.NS, c2.NS, c2.In(f), 63, []string{networkDelivered}},
		{"container to host", c1.NS, h2.NS, h2.GatewayOf(f), 63, []string{networkToHost, overlayChecked}},
	} {
		for _, captured := range []bool{false, true} {
			name := path.name
			if captured {
				name += ", captured"
			}
			t.Run(name, func(t *testing.T) {
				if captured {
					capture(t, h2.NS, lab.Uplink)
				}
				want := wireCounters(l, m, path.want...)
				const count = 5
				expectCarried(t, h2, count, want, func() {
					o := lab.PingOptions{Count: count, Interval: time.Millisecond}
					if ttl := ping(t, path.from, path.addr, o); ttl != path.ttl {
						t.Errorf("TTL %d, want %d", ttl, path.ttl)
					}
				})
				expectCarried(t, h2, packets, want, func() { sendDatagrams(t, path.from, path.to, path.addr, sizes...) })
			})
		}
	}
}

// testXDPForged: forged tunnel packets are dropped by from_wire, before the kernel makes anything of them.
func testXDPForged(t *testing.T, l *lab.Lab, m xdp.Mode) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	inner, outer := l.Options.Inner, l.Options.OuterOf(l.Options.Inner)
	to, remote := h1.Containers[0].In(inner), h2.Containers[0].In(inner)
	stranger, elsewhere := netip.MustParseAddr("192.168.32.99"), netip.MustParseAddr("172.247.0.9")
	if outer == lab.V6 {
		stranger = netip.MustParseAddr("fd00:192:168:32::99")
	}
	if inner == lab.V6 {
		elsewhere = netip.MustParseAddr("fd00:172:244:247::9")
	}
	const payload = 30
	for _, test := range []struct {
		reason     string
		src, outer netip.Addr
	}{
		{"unknown_host", remote, stranger},
		{"spoofed_source", elsewhere, h2.Node(outer)},
	} {
		t.Run(test.reason, func(t *testing.T) {
			packet := tunnelPacketOf(t, l, h2, h1, test.outer, datagramOf(test.src, to, randomBytes(payload)))
			uplink, container := capture(t, h1.NS, lab.Uplink), capture(t, h1.Containers[0].NS, "eth0")
			events(t, h1)
			dropped := "from_wire drop/" + test.reason
			expectCarried(t, h1, 1, []string{dropped}, func() {
				before := counters(t, h1)[counterKey(dropped)]
				sendToHost(t, l, h1, packet)
				until(t, "it is counted", func() (bool, error) { return counters(t, h1)[counterKey(dropped)] > before, nil })
			})
			for _, c := range []*lab.Capture{uplink, container} {
				for _, p := range stop(t, c) {
					if d := lab.Decode(p); !p.Outgoing && slices.ContainsFunc(d.IP, func(ip lab.IP) bool { return ip.Src == test.src && ip.Dst == to }) {
						if m == xdp.Generic && c == uplink {
							continue // packet sockets come before from_wire there
						}
						t.Errorf("it went on: %q", describe(p))
					}
				}
			}
			got := events(t, h1)
			if len(got) != 1 || got[0].Program != "from_wire" || got[0].Reason != test.reason || got[0].OuterSource != test.outer ||
				got[0].Source != test.src || got[0].Length != len(packet)+14 {
				t.Errorf("events: %+v", got)
			}
		})
	}
}

// testXDPMark sends from the wire what looks as if from_wire had made it.
func testXDPMark(t *testing.T, l *lab.Lab, m xdp.Mode) {
	if m != xdp.Native {
		return // from_wire makes nothing
	}
	h1, h2 := l.Hosts[0], l.Hosts[1]
	uplink := mac(t, h1, lab.Uplink)
	mark := xdp.Mark(topology.MAC(uplink))
	f := l.Options.Inner
	inner := datagramOf(h2.Containers[0].In(f), h1.Containers[0].In(f), randomBytes(30))
	const dropped = "from_wire drop/wire_mac"
	expectCarried(t, h1, 1, []string{dropped}, func() {
		send(t, l.Wire(), h1.Name, ethernet(net.HardwareAddr(mark[:]), uplink, inner))
		until(t, "it is counted", func() (bool, error) { return counters(t, h1)[counterKey(dropped)] > 0, nil })
	})
}
