// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

func routed(o *lab.Options) { o.Underlay = lab.Routed }

// TestRoutedUnderlay has a router between the hosts (SCENARIOS A3):
//
//	h1-c1 h1-c2                                h2-c1 h2-c2
//	172.245.0.0/24                             172.246.0.0/24
//	      h1                                         h2
//	192.168.32.245 ─── 192.168.32.1 wire 192.168.33.1 ─── 192.168.33.246
//
// The router takes one off the outer TTL alone.
func TestRoutedUnderlay(t *testing.T) {
	forEach(t, but(topology.EncapNone, allModes), routed, func(t *testing.T, l *lab.Lab) {
		testPaths(t, l)
		h1, h2 := l.Hosts[0], l.Hosts[1]
		arrived := capture(t, h2.NS, lab.Uplink)
		if ttl := ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 1}); ttl != modeOf(l).ttl(62) {
			t.Errorf("TTL %d, want %d", ttl, modeOf(l).ttl(62))
		}
		inner := uint8(63 - modeOf(l).copied())
		outer := map[topology.Encap]uint8{topology.EncapVXLAN: 63, topology.EncapIPIP: 62, topology.EncapUDP: 63}
		packets := traffic(stop(t, arrived))
		verify(t, h2.Name, packets)
		for _, p := range packets {
			d := lab.Decode(p)
			if !p.Outgoing && (d.IPv4[0].TTL != outer[l.Options.Backend] || d.IPv4[1].TTL != inner) {
				t.Errorf("outer TTL %d, want %d, inner TTL %d, want %d", d.IPv4[0].TTL, outer[l.Options.Backend], d.IPv4[1].TTL, inner)
			}
		}
	})
}

// TestHostGWNeedsAdjacency: behind a router (drawn above) there is no way to a
// host-gw peer. It is refused with the reason, and nothing points to it (A1).
func TestHostGWNeedsAdjacency(t *testing.T) {
	forEachUp(t, both(topology.EncapNone), routed, testHostGWNeedsAdjacency)
}

func testHostGWNeedsAdjacency(t *testing.T, l *lab.Lab) {
	noError(t, l.StartDaemons(t.Context()))
	h1, h2 := l.Hosts[0], l.Hosts[1]
	want := []node.Problem{{Source: "etcd", Key: "172.246.0.0-24",
		Text: "host-gw needs layer-2 adjacency, but 192.168.33.246 is behind the router 192.168.32.1: " +
			"use the backend vxlan or ipip; not served"}}
	var s node.Status
	until(t, "h1 tells of its peer", func() (ok bool, err error) {
		s, err = h1.DaemonStatus(t.Context())
		return len(s.Problems) > 0, err
	})
	equal(t, "problems", want, s.Problems)
	equal(t, "peers", []node.PeerStatus{}, s.Peers, cmpopts.EquateEmpty())
	if out := bpfnet(t, h1, "status"); !strings.Contains(out, want[0].Text) {
		t.Errorf("bpfnet status does not tell:\n%s", out)
	}
	if routes := run(t, h1.NS, "ip", "route", "show", "root", h2.Subnet.String()); routes != "" {
		t.Errorf("routes to %s: %s", h2.Subnet, routes)
	}
	v, err := viewOf(h1)
	noError(t, err)
	equal(t, "h1's tables and maps", wantView(l, h1), v)
	r, err := h1.Containers[0].NS.Ping(t.Context(), h2.Containers[0].Addr, lab.PingOptions{Count: 1, Timeout: 100 * time.Millisecond})
	noError(t, err)
	if r.Received != 0 {
		t.Errorf("a peer that is refused answered: %+v", r)
	}
}

// TestDirectRouting: with flannel's DirectRouting a peer on the same segment gets
// plain packets, one behind a router the tunnel, side by side:
//
//	h1-c1                h2-c1                  h3-c1
//	172.245.0.0/24       172.246.0.0/24         172.247.0.0/24
//	  h1 192.168.32.245   h2 192.168.32.246      h3 192.168.34.247
//	    └────── seg1 .1 ──────┘                     │
//	                └──────────── wire ── seg3 .1 ──┘
func TestDirectRouting(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), func(o *lab.Options) {
		o.Hosts, o.Containers, o.Underlay = 3, 1, lab.Routed
	}, func(t *testing.T, l *lab.Lab) {
		h1, h2, h3 := l.Hosts[0], l.Hosts[1], l.Hosts[2]
		move(t, l, h2, h1)
		startDaemons(t, l, "--etcd-init-config",
			`{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"vxlan","DirectRouting":true}}`)
		for _, h := range l.Hosts {
			learn(t, h)
		}
		equal(t, "routes of h1", []string{
			"172.246.0.0/24 via 192.168.32.246 dev eth0 onlink",
			"172.247.0.0/24 via 172.247.0.0 dev bpfnet0 onlink",
		}, lines(run(t, h1.NS, "ip", "route", "show", "proto", "98")))
		testDirect(t, l, h2, 98, containerRouted)
		testDirect(t, l, h3, 148, containerEncapsulated)
	})
}

// testDirect pings between the first containers of h1 and of a peer, and holds
// the packets' length on the wire, and what became of them.
func testDirect(t *testing.T, l *lab.Lab, peer *lab.Host, length int, way string) {
	t.Helper()
	h1 := l.Hosts[0]
	to := peer.Containers[0]
	for name, from := range map[string]lab.Namespace{"container": h1.Containers[0].NS, "host": h1.NS} {
		wire := capture(t, h1.NS, lab.Uplink)
		want := [2][]string{{way, networkDelivered}, nil}
		if peer == l.Hosts[1] {
			want[1] = []string{networkDelivered, way}
		}
		if from == h1.NS || l.Options.Dataplane == node.Netlink {
			ping(t, from, to.Addr, lab.PingOptions{Count: 1})
		} else {
			expectCounters(t, l, 1, want, func() { ping(t, from, to.Addr, lab.PingOptions{Count: 1}) })
		}
		var got []int
		for _, p := range traffic(stop(t, wire)) {
			got = append(got, p.Len)
		}
		equal(t, fmt.Sprintf("lengths on the wire, %s to %s", name, peer.Name), []int{length, length}, got)
	}
	noError(t, lab.TransferTCP(t.Context(), h1.Containers[0].NS, to.NS, to.Addr, 4<<20))
}

// move takes a host of a routed underlay to the segment of another, where it has
// the address that it would have in a flat one. No daemon runs on it yet.
func move(t *testing.T, l *lab.Lab, h, to *lab.Host) {
	t.Helper()
	addr := to.Addr.As4()
	addr[3] = h.Addr.As4()[3]
	run(t, l.Wire(), "ip", "link", "set", h.Name, "master", fmt.Sprintf("seg%d", to.Segment))
	run(t, h.NS, "ip", "address", "flush", "dev", lab.Uplink)
	h.Addr, h.Segment = netip.AddrFrom4(addr), to.Segment
	run(t, h.NS, "ip", "address", "add", h.Addr.String()+"/24", "dev", lab.Uplink)
	addr[3] = 1
	run(t, h.NS, "ip", "route", "add", "default", "via", netip.AddrFrom4(addr).String())
}

// TestRoutedLinks has the containers on routed links instead of a bridge, as
// Calico has (SCENARIOS A6), and bpfnet finds them by their routes:
//
//	h1-c1 172.245.0.2/32   h1-c2 172.245.0.3/32
//	  via 169.254.1.1        via 169.254.1.1
//	      vethc1                 vethc2
//	  172.245.0.2 dev vethc1, 172.245.0.3 dev vethc2
//	        h1 192.168.32.245 ── wire ── h2 192.168.32.246 likewise
func TestRoutedLinks(t *testing.T) {
	forEach(t, allModes, func(o *lab.Options) { o.Wiring = lab.PerLink }, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		equal(t, "programs on h1", wantAttached(l, h1, kernelWay(t)), attached(t, h1))
		c1, c2, remote := h1.Containers[0], h1.Containers[1], h2.Containers[0]
		fast, host := containerEncapsulated, hostEncapsulated
		toHost := [2][]string{{host, networkToHost, overlayChecked}, {networkDelivered, fast}}
		if !slices.Contains(tunnels, l.Options.Backend) {
			fast = containerRouted
			toHost = [2][]string{{networkNotOurs}, {networkNotOurs, containerNoRoute}}
		}
		for _, test := range []struct {
			name string
			from lab.Namespace
			to   *lab.Container
			ttl  int
			want [2][]string
		}{
			{"container to remote container", c1.NS, remote, 62, [2][]string{{fast, networkDelivered}, {networkDelivered, fast}}},
			{"container to container of its host", c1.NS, c2, 63, [2][]string{{containerLocal, containerLocal}}},
			{"host to remote container", h1.NS, remote, 63, toHost},
		} {
			t.Run(test.name, func(t *testing.T) {
				const count = 5
				expectCounters(t, l, count, test.want, func() {
					ttl := ping(t, test.from, test.to.Addr, lab.PingOptions{Count: count, Interval: time.Millisecond})
					want := test.ttl
					if test.to == remote {
						want = modeOf(l).ttl(want)
					}
					if ttl != want {
						t.Errorf("TTL %d, want %d", ttl, want)
					}
				})
			})
		}
		noError(t, lab.TransferTCP(t.Context(), c1.NS, remote.NS, remote.Addr, 4<<20))
	})
}
