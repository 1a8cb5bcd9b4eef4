// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestHostMeddled takes away from h1 what the daemon made and what it stands on.
//
//	h1/c1 172.245.0.2      h2/c1 172.246.0.2
//	   h1 .245                h2 .246
//	     └──── 192.168.32.0/24 ───┘
//	               .1 etcd, the test's own
func TestHostMeddled(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), func(o *lab.Options) {
		withEtcd(o)
		o.Containers = 1
	}, testHostMeddled)
}

func testHostMeddled(t *testing.T, l *lab.Lab) {
	startEtcd(t, l)
	m := &meddled{Lab: l, c: dialEtcd(t, l.Wire(), etcdURL), h1: l.Hosts[0], h2: l.Hosts[1]}
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), jsonLog))
		learn(t, h)
	}
	waitEtcd(t, l, m.c)
	t.Run("bpfnet0 deleted", m.overlayDeleted)
	t.Run("routes deleted", m.routesDeleted)
	t.Run("neighbours and FDB deleted", m.neighboursDeleted)
	t.Run("uplink down and up", m.uplinkDown)
	t.Run("uplink's address changed", m.addressChanged)
	t.Run("peer's MAC changed", m.macChanged)
	t.Run("uplink's MTU changed", m.mtuChanged)
}

type meddled struct {
	*lab.Lab
	c      *clientv3.Client
	h1, h2 *lab.Host
}

// unnoticed does something to h1 that containers' traffic must not notice where
// our programs carry it, and waits until all is as before.
func (m *meddled) unnoticed(t *testing.T, meddle func()) {
	t.Helper()
	there := startFlow(t, m.h1.Containers[0], m.h2.Containers[0], time.Millisecond)
	meddle()
	t.Logf("mended after %v", waitView(t, m.h1, wantView(m.Lab, m.h1, leases(t, m.c)...), time.Now()))
	waitProblems(t, m.h1)
	there.more(10)
	if m.Options.Dataplane == node.EBPF {
		there.intact()
	}
	m.reached(t)
}

// reached waits until h1 itself and its container reach h2's, and are reached.
func (m *meddled) reached(t *testing.T) {
	t.Helper()
	c1, c2 := m.h1.Containers[0], m.h2.Containers[0]
	for _, way := range []struct {
		from lab.Namespace
		to   netip.Addr
	}{{m.h1.NS, c2.Addr}, {m.h2.NS, c1.Addr}, {c1.NS, c2.Addr}} {
		until(t, string(way.from)+" reaches "+way.to.String(), func() (bool, error) {
			r, err := way.from.Ping(t.Context(), way.to, lab.PingOptions{Count: 1, Timeout: 100 * time.Millisecond})
			return r.Received == 1, err
		})
	}
}

func (m *meddled) overlayDeleted(t *testing.T) {
	m.unnoticed(t, func() {
		run(t, m.h1.NS, "ip", "link", "del", "bpfnet0")
		until(t, "bpfnet0 is back", func() (bool, error) {
			v, err := viewOf(m.h1) // fails while it is made
			return err == nil && len(v.FDB) == 1, nil
		})
	})
}

func (m *meddled) routesDeleted(t *testing.T) {
	m.unnoticed(t, func() { run(t, m.h1.NS, "ip", "route", "flush", "proto", "98") })
}

// neighboursDeleted: the kernel says who removed a neighbour, and all is looked at
// again at once. It does not of an FDB entry: alone that were back within a minute.
func (m *meddled) neighboursDeleted(t *testing.T) {
	m.unnoticed(t, func() {
		run(t, m.h1.NS, "bridge", "fdb", "del", leaseOf(t, m.c, m.h2).MAC.String(), "dev", "bpfnet0")
		run(t, m.h1.NS, "ip", "neigh", "flush", "dev", "bpfnet0", "nud", "permanent")
	})
}

// uplinkDown: nothing that is right is torn down meanwhile.
func (m *meddled) uplinkDown(t *testing.T) {
	waitEtcd(t, m.Lab, m.c)
	before, err := viewOf(m.h1)
	noError(t, err)
	mark := logMark(t, m.h1)
	run(t, m.h1.NS, "ip", "link", "set", lab.Uplink, "down")
	const text = "uplink eth0 is down: set it up"
	waitProblems(t, m.h1, node.Problem{Source: "uplink", Text: text})
	after, err := viewOf(m.h1)
	noError(t, err)
	equal(t, "h1 while its uplink is down", before, after)
	run(t, m.h1.NS, "ip", "link", "set", lab.Uplink, "up")
	run(t, m.h1.NS, "ip", "route", "add", "default", "via", "192.168.32.1")
	m.reached(t)
	waitProblems(t, m.h1)
	equal(t, "h1's warnings", []string{text}, warningsBut(t, m.h1, mark, "etcd is out of reach"))
}

// addressChanged gives h1 another address: it keeps its subnet, and is reached
// there. The /32 keeps the uplink from being without any, which were another case.
func (m *meddled) addressChanged(t *testing.T) {
	for _, to := range []string{"192.168.32.200", "192.168.32.245"} {
		from := m.h1.Addr
		m.h1.Addr = netip.MustParseAddr(to)
		run(t, m.h1.NS, "ip", "address", "add", to+"/32", "dev", lab.Uplink)
		run(t, m.h1.NS, "ip", "address", "del", from.String()+"/24", "dev", lab.Uplink)
		run(t, m.h1.NS, "ip", "address", "add", to+"/24", "dev", lab.Uplink)
		run(t, m.h1.NS, "ip", "address", "del", to+"/32", "dev", lab.Uplink)
		run(t, m.h1.NS, "ip", "route", "replace", "default", "via", "192.168.32.1")
		until(t, "the lease of h1 says "+to, func() (bool, error) { return leaseOf(t, m.c, m.h1).PublicIP == m.h1.Addr, nil })
		t.Logf("all follow after %v", waitEtcd(t, m.Lab, m.c))
		m.reached(t)
		for _, h := range m.Hosts {
			waitProblems(t, h)
		}
	}
}

// macChanged gives h2's uplink another MAC, of which h1 learns as from an ARP packet.
func (m *meddled) macChanged(t *testing.T) {
	const mac = "02:00:00:00:00:99"
	there := startFlow(t, m.h1.Containers[0], m.h2.Containers[0], time.Millisecond)
	there.more(10)
	run(t, m.h2.NS, "ip", "link", "set", lab.Uplink, "address", mac)
	run(t, m.h1.NS, "ip", "neigh", "replace", m.h2.Addr.String(), "lladdr", mac, "dev", lab.Uplink, "nud", "reachable")
	there.more(100)
	r, err := there.end()
	noError(t, err)
	t.Logf("%d of %d lost", r.Sent-r.Received, r.Sent)
	m.reached(t)
	waitProblems(t, m.h1)
}

// mtuChanged: subnet.env follows.
func (m *meddled) mtuChanged(t *testing.T) {
	for _, mtu := range []int{1400, 1500} {
		run(t, m.h1.NS, "ip", "link", "set", lab.Uplink, "mtu", strconv.Itoa(mtu))
		until(t, "subnet.env follows", func() (bool, error) { return subnetEnv(t, m.h1).MTU == mtu-m.Options.Overhead(), nil })
		m.reached(t)
	}
}

// TestDefaultRouteChanged gives h1 another way to h2, and none.
//
//	h1/c1 172.245.0.2              h2/c1 172.246.0.2
//	   h1 192.168.32.245              h2 192.168.33.246
//	     └─── .1 and .2 ─── wire ─── .1 ───┘
func TestDefaultRouteChanged(t *testing.T) {
	l := serve(t, func(o *lab.Options) { o.Containers, o.Underlay = 1, lab.Routed })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	run(t, l.Wire(), "ip", "address", "add", "192.168.32.2/24", "dev", "seg1")
	there := startFlow(t, h1.Containers[0], h2.Containers[0], time.Millisecond)
	for _, router := range []string{"192.168.32.2", "192.168.32.1"} {
		run(t, h1.NS, "ip", "route", "replace", "default", "via", router)
		until(t, "h1 goes by "+router, func() (bool, error) {
			s, err := h1.DaemonStatus(t.Context())
			return len(s.Peers) == 1 && s.Peers[0].NextHop.String() == router, err
		})
		there.more(10)
	}
	there.intact()

	run(t, h1.NS, "ip", "route", "del", "default")
	waitProblems(t, h1, node.Problem{Source: "etcd", Key: "172.246.0.0-24", Text: "no way through the underlay to its PublicIP 192.168.33.246: " +
		"look up route to 192.168.33.246: network is unreachable; not served"})
	run(t, h1.NS, "ip", "route", "add", "default", "via", "192.168.32.1")
	waitProblems(t, h1)
	ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 10, Interval: time.Millisecond})
}
