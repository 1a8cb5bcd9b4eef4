// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"context"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestChurn ends and starts bpfnet on h1 and flanneld on h2, in every way, and
// has h3 join and leave, now as the one and now as the other. Between h1 and h2
// nothing is lost but what flanneld's udp backend loses while it does not run.
func TestChurn(t *testing.T) {
	matrix(t, modes(), func(t *testing.T, m mode, dp dataplane) {
		c := up(t, m, dp, 3)
		h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
		h1.bpfnet.start(t)
		h2.flanneld.start(t)
		x := startTraffic(t, lab.V4, h1, h2)
		x.during(t, "bpfnet restarted", func() { h1.bpfnet.stop(t); h1.bpfnet.start(t) })
		x.during(t, "bpfnet killed", func() { h1.bpfnet.kill(t); h1.bpfnet.start(t) })
		x.during(t, "flanneld restarted", func() { h2.flanneld.stop(t); h2.flanneld.start(t) })
		x.during(t, "flanneld killed", func() { h2.flanneld.kill(t); h2.flanneld.start(t) })
		x.during(t, "bpfnet joins and its lease is deleted", func() {
			c.join(t, h3, h3.bpfnet)
			h3.bpfnet.stop(t)
			c.remove(t, h3)
			c.forgotten(t, h3)
		})
		h3.cleanup(t)
		x.during(t, "flanneld joins and its lease expires", func() {
			c.join(t, h3, h3.flanneld)
			h3.flanneld.kill(t)
			c.expire(t, h3)
			c.forgotten(t, h3)
		})
		for name, o := range x.outages(t) {
			if lost := o[0].lost + o[1].lost; lost > 0 && !lossy(m, dp, name) {
				t.Errorf("%s: %d pings lost", name, lost)
			}
		}
	})
}

// lossy says where a process carries the packets itself, in udp mode, flanneld
// or the netlink dataplane: what is sent while it does not run, or is too busy,
// is lost.
func lossy(m mode, dp dataplane, step string) bool {
	theirs := !strings.HasPrefix(step, "bpfnet")
	return m.backend == topology.EncapUDP && (theirs || dp.name != ebpf.name)
}

// join starts an agent on a node, and waits until it reaches the others and
// they reach it.
func (c *cluster) join(t *testing.T, n *node, a agent) {
	t.Helper()
	a.start(t)
	for _, other := range c.nodes {
		if other != n {
			meet(t, n.container().NS, other.container().Addr)
			meet(t, other.container().NS, n.container().Addr)
		}
	}
}

// expire has a node's lease end in etcd's shortest time.
func (c *cluster) expire(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	lease, err := c.etcd.Grant(ctx, 1)
	noError(t, err)
	c.put(t, n.key(), c.lease(t, n).Value, clientv3.WithLease(lease.ID))
}

// forgotten waits until no other node routes to a node's subnet by it.
func (c *cluster) forgotten(t *testing.T, n *node) {
	t.Helper()
	for _, other := range c.nodes {
		if other != n {
			until(t, other.Name+" forgets "+n.Name, func() (bool, error) {
				routes, err := other.NS.Run(t.Context(), "ip", "-4", "route", "show", "root", n.Subnet.String())
				return routes == "", err
			})
		}
	}
}
