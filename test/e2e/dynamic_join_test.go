// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"net/netip"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestJoinAndLeave has h3 join, leave, and join again with another subnet,
// while h1/c1 and h2/c1 ping each other 100 times a second.
//
//	h1/c1 172.245.0.2      h2/c1 172.246.0.2      h3/c1 172.247.0.2
//	   h1 .245                h2 .246                h3 .247
//	     └──────── 192.168.32.0/24 ──┴──────────────────┘
//	                  .1 etcd, the test's own
func TestJoinAndLeave(t *testing.T) {
	modes := append(but(topology.EncapUDP, ebpfModes), netlinkModes...)
	forEachUp(t, modes, func(o *lab.Options) {
		withEtcd(o)
		o.Hosts, o.Containers = 3, 1
	}, testJoinAndLeave)
}

func testJoinAndLeave(t *testing.T, l *lab.Lab) {
	startEtcd(t, l)
	h1, h2, h3 := l.Hosts[0], l.Hosts[1], l.Hosts[2]
	for _, h := range []*lab.Host{h1, h2} {
		noError(t, h.StartDaemon(t.Context()))
		learn(t, h)
	}
	waitPeers(t, h1, 1)
	there := startFlow(t, h1.Containers[0], h2.Containers[0], 10*time.Millisecond)
	back := startFlow(t, h2.Containers[0], h1.Containers[0], 10*time.Millisecond)
	there.ttl, back.ttl = modeOf(l).ttl(there.ttl), modeOf(l).ttl(back.ttl)

	c := dialEtcd(t, l.Wire(), etcdURL)
	join(t, l, c, h3, h3.Subnet)
	ping(t, h3.Containers[0].NS, h1.Containers[0].Addr, lab.PingOptions{Count: 3})
	leave(t, l, c, h3)
	join(t, l, c, h3, netip.MustParsePrefix("172.244.77.0/24"))
	leave(t, l, c, h3)

	there.intact()
	back.intact()
}

// join starts the daemon of a host, which is to take the subnet, and waits
// until all hosts hold what that means.
func join(t *testing.T, l *lab.Lab, c *clientv3.Client, h *lab.Host, subnet netip.Prefix) {
	t.Helper()
	h.Subnet = subnet
	noError(t, store.SubnetEnv{Network: lab.Network, Subnet: subnet, MTU: 1234}.Write(h.SubnetFile()))
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	events := c.Watch(ctx, store.DefaultPrefix+"/"+leaseKey(h))
	started := inBackground(func() error { return h.StartDaemon(t.Context()) })
	<-events
	since := time.Now()
	all := leases(t, c)
	for _, h := range l.Hosts {
		t.Logf("%s follows the join after %v", h.Name, waitView(t, h, wantView(l, h, all...), since))
	}
	until(t, "subnet.env follows", func() (bool, error) {
		want := store.SubnetEnv{Network: lab.Network, Subnet: subnet, MTU: l.Options.ContainerMTU()}
		return subnetEnv(t, h) == want, nil
	})
	t.Logf("subnet.env follows after %v", time.Since(since))
	started.wait(t)
}

// leave stops the daemon of a host and deletes its lease. The other hosts have
// to forget it; the host itself keeps its datapath.
func leave(t *testing.T, l *lab.Lab, c *clientv3.Client, h *lab.Host) {
	t.Helper()
	noError(t, h.StopDaemon(t.Context()))
	remove(t, c, leaseKey(h))
	since := time.Now()
	all := leases(t, c)
	for _, other := range l.Hosts {
		if other != h {
			t.Logf("%s follows the leave after %v", other.Name, waitView(t, other, wantView(l, other, all...), since))
		}
	}
}
