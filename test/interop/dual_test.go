// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"context"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/test/lab"
)

// TestMixedDualStack is TestMixed in both families: bpfnet on h2 joins a network
// of flanneld on h1, and flanneld on h3 joins both.
func TestMixedDualStack(t *testing.T) {
	matrix(t, dualStack, func(t *testing.T, m mode, dp dataplane) {
		c := up(t, m, dp, 3)
		h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
		h1.flanneld.start(t)
		h2.bpfnet.start(t)
		h3.flanneld.start(t)
		for _, pair := range [][2]*node{{h1, h2}, {h2, h1}, {h2, h3}, {h3, h2}} {
			for _, family := range lab.Dual.Each() {
				t.Run(pair[0].Name+" to "+pair[1].Name+" in "+string(family), func(t *testing.T) {
					testFamily(t, family, pair[0], pair[1])
				})
			}
		}
	})
}

// testFamily pings and sends a TCP stream in one family: container to
// container, and container to node, whose answer comes by the underlay's address.
func testFamily(t *testing.T, family lab.Families, from, to *node) {
	src, dst := from.container(), to.container()
	meet(t, src.NS, dst.In(family))
	r, err := src.NS.Ping(t.Context(), dst.In(family), lab.PingOptions{Count: 5, Interval: time.Millisecond})
	noError(t, err)
	equal(t, "TTLs", []int{62}, r.TTLs())
	r.Replies = nil
	equal(t, "container to container", lab.PingResult{Sent: 5, Received: 5}, r)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, lab.TransferTCP(ctx, src.NS, dst.NS, dst.In(family), 8<<20))
	meet(t, src.NS, to.Node(family))
	meet(t, from.NS, dst.In(family))
}
