// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"slices"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// maxOutage is how long a node may be cut off by its migration in udp mode, in
// which nobody carries the packets in between.
const maxOutage = time.Second

// TestMigration changes a cluster of two flanneld nodes to bpfnet, node by
// node, and back, under traffic: no connection breaks, and but in udp mode no
// packet is lost. flanneld then follows what etcd says, whatever bpfnet has
// handed over.
func TestMigration(t *testing.T) {
	matrix(t, slices.Concat(modes(), dualStack), func(t *testing.T, m mode, dp dataplane) {
		c := up(t, m, dp, 2)
		h1, h2 := c.nodes[0], c.nodes[1]
		h1.flanneld.start(t)
		h2.flanneld.start(t)
		family := lab.V4
		if m.inner == lab.Dual {
			family = lab.V6 // IPv4 is as it is without it
		}
		x := startTraffic(t, family, h1, h2)
		for _, n := range c.nodes {
			x.during(t, n.Name+" from flanneld to bpfnet", func() {
				n.flanneld.stop(t)
				n.bpfnet.start(t)
			})
		}
		for _, n := range c.nodes {
			x.during(t, n.Name+" from bpfnet to flanneld", func() {
				n.bpfnet.stop(t)
				n.cleanup(t, "--hand-over")
				n.flanneld.start(t)
			})
		}
		for name, o := range x.outages(t) {
			for _, direction := range o {
				if m.backend != topology.EncapUDP && direction.lost > 0 {
					t.Errorf("%s: %d pings lost", name, direction.lost)
				}
				if direction.gap > maxOutage {
					t.Errorf("%s: cut off for %v, at most %v is allowed", name, direction.gap, maxOutage)
				}
			}
		}
		mac := vtepMAC(t, c, h2)
		h2.flanneld.stop(t)
		c.remove(t, h2)
		h1.knowsNothingOf(t, h2, mac)
	})
}

// cleanup takes our datapath off a node.
func (n *node) cleanup(t *testing.T, args ...string) {
	t.Helper()
	run(t, n.NS, append([]string{bpfnetBinary, "cleanup", "--run-dir", n.Dir}, args...)...)
}
