// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// Where packets are counted, as "program verdict/reason".
const (
	containerEncapsulated  = "from_container forward/encapsulated"
	containerRouted        = "from_container forward/routed"
	containerLocal         = "from_container forward/local"
	containerToNode        = "from_container pass/local"
	containerNoRoute       = "from_container pass/no_route"
	containerUnknownSource = "from_container pass/unknown_source"
	containerProtocol      = "from_container pass/protocol"
	networkDelivered       = "from_network forward/delivered"
	networkToHost          = "from_network forward/to_host"
	hostChecksum           = "from_host pass/udp_checksum"
	networkOuterFragment   = "from_network pass/outer_fragment"
	networkNotOurs         = "from_network pass/not_ours"
	overlayChecked         = "from_overlay pass/checked" // every packet to the host has come in by bpfnet0
	hostEncapsulated       = "from_host forward/encapsulated"
)

// testPaths pings along every path there is and holds the counters of both
// hosts to what each packet has to have been.
func testPaths(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	c1, c2 := h1.Containers[0], h1.Containers[1]
	remote := h2.Containers[1]
	bare := 64
	if l.Options.Underlay == lab.Routed {
		bare-- // by the router
	}
	for _, test := range []struct {
		name   string
		from   lab.Namespace
		to     netip.Addr
		ttl    int
		tunnel [2][]string // the counters of h1 and of h2 that each ping adds 1 to
		direct [2][]string // without encapsulation
	}{
		{"container to remote container", c1.NS, remote.Addr, 62,
			[2][]string{{containerEncapsulated, networkDelivered}, {networkDelivered, containerEncapsulated}},
			[2][]string{{containerRouted, networkDelivered}, {networkDelivered, containerRouted}}},
		{"container to remote bridge", c1.NS, h2.Gateway(), 63,
			[2][]string{{containerEncapsulated, networkDelivered}, {networkToHost, overlayChecked, hostEncapsulated}},
			[2][]string{{containerRouted, networkDelivered}, {networkNotOurs}}},
		// The request leaves as it is, for a node is no address of the overlay; the answer is for a container.
		{"container to remote node", c1.NS, h2.Addr, 63,
			[2][]string{{containerNoRoute, networkDelivered}, {networkNotOurs, hostEncapsulated}},
			[2][]string{{containerNoRoute, networkNotOurs}, {networkNotOurs}}},
		{"host to remote container", h1.NS, remote.Addr, 63,
			[2][]string{{hostEncapsulated, networkToHost, overlayChecked}, {networkDelivered, containerEncapsulated}},
			[2][]string{{networkNotOurs}, {networkNotOurs, containerNoRoute}}},
		{"host to remote bridge", h1.NS, h2.Gateway(), 64,
			[2][]string{{hostEncapsulated, networkToHost, overlayChecked}, {networkToHost, overlayChecked, hostEncapsulated}},
			[2][]string{{networkNotOurs}, {networkNotOurs}}},
		{"host to remote node", h1.NS, h2.Addr, bare,
			[2][]string{{networkNotOurs}, {networkNotOurs}}, [2][]string{{networkNotOurs}, {networkNotOurs}}},
		{"container to container of its host", c1.NS, c2.Addr, 64,
			[2][]string{{containerLocal, containerLocal}}, [2][]string{{containerLocal, containerLocal}}},
		{"container to its bridge", c1.NS, h1.Gateway(), 64,
			[2][]string{{containerToNode}}, [2][]string{{containerToNode}}},
		{"container to its node", c1.NS, h1.Addr, 64,
			[2][]string{{containerNoRoute}}, [2][]string{{containerNoRoute}}},
		{"host to its container", h1.NS, c1.Addr, 64,
			[2][]string{{containerToNode}}, [2][]string{{containerToNode}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.tunnel
			if l.Options.Backend == topology.EncapNone {
				want = test.direct
			}
			const count = 5
			expectCounters(t, l, count, want, func() {
				o := lab.PingOptions{Count: count, Interval: time.Millisecond}
				left := test.ttl
				if slices.ContainsFunc(test.tunnel[1], func(c string) bool { return strings.HasSuffix(c, "/encapsulated") }) {
					left = modeOf(l).ttl(left) // the reply has come by the overlay
				}
				if ttl := ping(t, test.from, test.to, o); ttl != left {
					t.Errorf("TTL %d, want %d", ttl, left)
				}
			})
		})
	}
}

// expectCounters fails the test unless f moves exactly the counters named for
// each host, by count each (twice, where named twice). What the lab itself
// sends, ARP and etcd's TCP, is captured and taken off. In the netlink dataplane
// the overlay devices' counters stand for those of the programs.
func expectCounters(t *testing.T, l *lab.Lab, count int, want [2][]string, f func()) {
	t.Helper()
	if l.Options.Dataplane == node.Netlink {
		expectOverlay(t, l, count, want, f)
		return
	}
	exact := make([]lab.Counters, len(want))
	for i, keys := range want {
		exact[i] = lab.Counters{}
		for _, k := range keys {
			for _, counted := range modeOf(l).counted(k) {
				exact[i][counterKey(counted)] += uint64(count)
			}
		}
	}
	expectExactly(t, l, exact, f)
}

// counterKey is the key written as "from_network forward/delivered".
func counterKey(s string) lab.CounterKey {
	program, rest, _ := strings.Cut(s, " ")
	verdict, reason, _ := strings.Cut(rest, "/")
	return lab.CounterKey{Program: program, Verdict: verdict, Reason: reason}
}

// expectExactly is expectCounters with a number for each counter.
func expectExactly(t *testing.T, l *lab.Lab, want []lab.Counters, f func()) {
	t.Helper()
	var watches []*watch
	for i := range want {
		watches = append(watches, startWatch(t, l.Hosts[i]))
	}
	f()
	for i, w := range watches {
		equal(t, "counters of "+w.host.Name, want[i], w.moved(want[i]))
	}
}

// watch is a host's counters, and what the lab itself sends there.
type watch struct {
	t      *testing.T
	host   *lab.Host
	noise  map[string][]*lab.Capture // by the program that counts it
	before lab.Counters
}

func startWatch(t *testing.T, h *lab.Host) *watch {
	t.Helper()
	w := &watch{t: t, host: h, noise: map[string][]*lab.Capture{}}
	w.noise["from_network"] = []*lab.Capture{capture(t, h.NS, lab.Uplink)}
	for _, c := range h.Containers {
		w.noise["from_container"] = append(w.noise["from_container"], capture(t, h.NS, c.Veth))
	}
	w.before = counters(t, h) // within the captures: they hold all that is counted
	return w
}

// moved is what was counted, less as much of the noise as want has no place for.
func (w *watch) moved(want lab.Counters) lab.Counters {
	w.t.Helper()
	moved := counters(w.t, w.host).Since(w.before)
	for k, noise := range w.countNoise() {
		extra := moved[k] - want[k]
		if moved[k] < want[k] || extra > noise {
			continue // wrong, and equal says so
		}
		if moved[k] -= extra; moved[k] == 0 {
			delete(moved, k)
		}
	}
	return moved
}

// countNoise counts ARP and etcd's packets by what has to become of them.
func (w *watch) countNoise() lab.Counters {
	w.t.Helper()
	noise := lab.Counters{}
	for program, captures := range w.noise {
		for _, c := range captures {
			for _, p := range stop(w.t, c) {
				switch {
				case p.Outgoing:
				case len(lab.Decode(p).ARP) > 0:
					noise[lab.CounterKey{Program: program, Verdict: "pass", Reason: "protocol"}]++
				case isEtcd(p):
					noise[lab.CounterKey{Program: program, Verdict: "pass", Reason: "not_ours"}]++
				}
			}
		}
	}
	return noise
}
