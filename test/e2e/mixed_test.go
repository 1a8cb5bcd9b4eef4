// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestMixedDataplanes has h1 in the ebpf dataplane and h2 in netlink: they speak
// the same bytes (topology as TestOverlay).
func TestMixedDataplanes(t *testing.T) {
	for _, backend := range switchable {
		t.Run(string(backend), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Backend = backend })
			ends := []mode{{node.EBPF, backend}, {node.Netlink, backend}}
			for i, h := range l.Hosts {
				noError(t, h.StartDaemon(t.Context(), "--dataplane", string(ends[i].dataplane)))
			}
			for _, h := range l.Hosts {
				learn(t, h)
				waitPeers(t, h, 1)
			}
			ttl := 62 - ends[0].copied() - ends[1].copied() // one end alone may copy
			for i, from := range l.Hosts {
				to := l.Hosts[1-i]
				t.Run(fmt.Sprintf("%s to %s", ends[i], ends[1-i]), func(t *testing.T) { testMixed(t, l, from, to, ttl) })
			}
			for i, from := range l.Hosts {
				t.Run(fmt.Sprintf("MTU, %s to %s", ends[i], ends[1-i]), func(t *testing.T) { testMixedMTU(t, l, from, l.Hosts[1-i]) })
			}
		})
	}
}

// testMixed: ping, TCP and datagrams from containers of one host to the other.
func testMixed(t *testing.T, l *lab.Lab, from, to *lab.Host, ttl int) {
	a, b, mtu := from.Containers[0], to.Containers[0], l.Options.ContainerMTU()
	if got := ping(t, a.NS, b.Addr, lab.PingOptions{Count: 20, Interval: time.Millisecond}); got != ttl {
		t.Errorf("TTL %d, want %d", got, ttl)
	}
	ping(t, from.NS, b.Addr, lab.PingOptions{Count: 20, Interval: time.Millisecond})
	ping(t, a.NS, to.Gateway(), lab.PingOptions{Count: 20, Interval: time.Millisecond})
	transfer(t, a.NS, b.NS, b.Addr, 8<<20)
	sendDatagrams(t, a.NS, b.NS, b.Addr, 1, 100, mtu-28, mtu-27, 5000, 65507)
}

// testMixedMTU is TestMTU for one direction.
func testMixedMTU(t *testing.T, l *lab.Lab, from, to *lab.Host) {
	widen(t, from)
	a, b, mtu := from.Containers[0], to.Containers[0], l.Options.ContainerMTU()
	pingSize(t, a, b, mtu, "-M", "do")
	pingSize(t, a, b, mtu+1, "-M", "dont")
	refused(t, a, to.Containers[1], mtu+1, mtu)
}
