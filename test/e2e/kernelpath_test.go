// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestFirstPackets sends before any container is known (topology as TestOverlay).
// While the daemons are stopped nothing is learned, so every packet takes the
// kernel's path, and arrives. Once they run again they learn from what the
// kernel has seen, and the same ping takes the fast path.
func TestFirstPackets(t *testing.T) {
	unknown := map[bool][2][]string{
		true: {{containerUnknownSource, hostEncapsulated, networkToHost, overlayChecked},
			{networkToHost, overlayChecked, containerUnknownSource, hostEncapsulated}},
		false: {{containerUnknownSource, networkNotOurs}, {networkNotOurs, containerUnknownSource}},
	}
	known := map[bool][2][]string{
		true:  {{containerEncapsulated, networkDelivered}, {networkDelivered, containerEncapsulated}},
		false: {{containerRouted, networkDelivered}, {networkDelivered, containerRouted}},
	}
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Backend = backend })
			noError(t, l.StartDaemons(t.Context()))
			h1, h2 := l.Hosts[0], l.Hosts[1]
			for _, h := range l.Hosts {
				waitPeers(t, h, 1)
			}
			for _, h := range []*lab.Host{h2, h1} {
				noError(t, h.StopDaemon(t.Context()))
			}
			const count = 3
			pings := func() {
				t.Helper()
				o := lab.PingOptions{Count: count, Interval: time.Millisecond}
				if ttl := ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, o); ttl != 62 {
					t.Errorf("TTL %d, want 62", ttl)
				}
			}
			tunnel := slices.Contains(tunnels, backend)
			expectCounters(t, l, count, unknown[tunnel], pings)
			for _, h := range l.Hosts {
				noError(t, h.StartDaemon(t.Context()))
				waitEndpoints(t, h, 1)
			}
			expectCounters(t, l, count, known[tunnel], pings)
		})
	}
}

// TestUnresolvedNextHop (topology as TestOverlay) sends while the MAC of the other
// node is not known, from a container and from the host. The packet waits for
// ARP, and leaves as it should. (No daemon runs, so that there is silence: nobody
// would copy the packets of the netlink dataplane's udp.)
func TestUnresolvedNextHop(t *testing.T) {
	forEach(t, slices.Concat(ebpfModes, but(topology.EncapUDP, netlinkModes)), nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		for _, h := range []*lab.Host{h2, h1} {
			noError(t, h.StopDaemon(t.Context())) // no word to etcd either
		}
		container, to := h1.Containers[0], h2.Containers[0]
		host := h1.Subnet.Addr()
		if l.Options.Backend == topology.EncapNone {
			host = h1.Addr
		}
		for _, test := range []struct {
			name string
			from lab.Namespace
			addr netip.Addr
			ttl  int // of the request on the wire
		}{{"container", container.NS, container.Addr, 63}, {"host", h1.NS, host, 64}} {
			t.Run(test.name, func(t *testing.T) {
				for _, h := range l.Hosts {
					run(t, h.NS, "ip", "neigh", "flush", "dev", lab.Uplink)
				}
				request, reply := pingOnWire(t, l, test.from, to.Addr)
				in := inner{src: test.addr, dst: to.Addr, icmp: "EchoRequest", ttl: test.ttl, df: true, length: 84}
				equal(t, "request", wireLines(t, l, h1, h2, in, 0), describe(request))
				in = inner{src: to.Addr, dst: test.addr, icmp: "EchoReply", ttl: 63, length: 84}
				equal(t, "reply", wireLines(t, l, h2, h1, in, 0), describe(reply))
			})
		}
	})
}

// TestCover (topology as TestOverlay): what the kernel routes to a node by a cover, before it has a route of its
// own in a large cluster (package netlink), leaves as it does by that.
func TestCover(t *testing.T) {
	forEach(t, but(topology.EncapNone, ebpfModes), nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		noError(t, h1.StopDaemon(t.Context()))
		own := h2.Subnet.Masked().String()
		const gateway = "169.254.1.1"
		if l.Options.Backend == topology.EncapVXLAN {
			mac := strings.TrimSpace(run(t, h1.NS, "cat", "/sys/class/net/bpfnet0/address"))
			run(t, h1.NS, "ip", "neigh", "add", gateway, "lladdr", mac, "dev", "bpfnet0", "nud", "permanent")
		}
		run(t, h1.NS, "ip", "route", "add", own, "via", gateway, "dev", "bpfnet0", "onlink", "metric", "65536")
		run(t, h1.NS, "ip", "route", "del", own, "proto", "98")
		to := h2.Containers[0].Addr
		request, _ := pingOnWire(t, l, h1.NS, to)
		in := inner{src: h1.Subnet.Addr(), dst: to, icmp: "EchoRequest", ttl: 64, df: true, length: 84}
		equal(t, "request", wireLines(t, l, h1, h2, in, 0), describe(request))
	})
}

// TestNoFastPath: with --fast-path=false containers' packets go through the
// kernel's bridge, routing, FORWARD chain and conntrack, and only the tunnel is ours.
func TestNoFastPath(t *testing.T) {
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Backend = backend })
			startDaemons(t, l, "--fast-path=false")
			h1, h2 := l.Hosts[0], l.Hosts[1]
			want := [2][]string{{hostEncapsulated, networkToHost, overlayChecked}, {networkToHost, overlayChecked, hostEncapsulated}}
			if backend == topology.EncapNone {
				want = [2][]string{{networkNotOurs}, {networkNotOurs}}
			}
			const count = 5
			from, to := h1.Containers[0], h2.Containers[0]
			expectCounters(t, l, count, want, func() {
				ttl := ping(t, from.NS, to.Addr, lab.PingOptions{Count: count, Interval: time.Millisecond})
				if ttl != 62 {
					t.Errorf("TTL %d, want 62", ttl)
				}
			})
			noError(t, lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, 4<<20))
		})
	}
}

// TestClsact: the programs attached by tc filters, as on kernels without tcx,
// do the same.
func TestClsact(t *testing.T) {
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Backend = backend })
			startDaemons(t, l, "--clsact")
			for _, h := range l.Hosts {
				learn(t, h)
			}
			h1, h2 := l.Hosts[0], l.Hosts[1]
			equal(t, "programs on h1", wantAttached(l, h1, "clsact"), attached(t, h1))
			testPaths(t, l)
			from, to := h1.Containers[0], h2.Containers[0]
			noError(t, lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, 4<<20))
		})
	}
}

// startDaemons starts all daemons with more arguments than the lab's, and waits
// until each serves all the others.
func startDaemons(t *testing.T, l *lab.Lab, args ...string) {
	t.Helper()
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), args...))
	}
	for _, h := range l.Hosts {
		waitPeers(t, h, (len(l.Hosts)-1)*len(l.Options.Inner.Each()))
	}
}
