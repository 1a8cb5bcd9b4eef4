// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestBadNodes has h3, and once h4, fare badly in many ways, under pings of
// 100/s between h1 and h2, which must not notice.
//
//	h1/c1 172.245.0.2    h2/c1 172.246.0.2    h3/c1 172.247.0.2  h3/c2 .3    h4/c1 172.244.4.2
//	   h1 .245              h2 .246              └──── h3 .247 ───┘             h4 .248
//	     └───────── 192.168.32.0/24 ──┴──────────────────┴─────────────────────────┘
//	                   .1 etcd, the test's own
func TestBadNodes(t *testing.T) {
	l := up(t, func(o *lab.Options) {
		withEtcd(o)
		o.Hosts = 4
	})
	startEtcd(t, l)
	b := &badNodes{Lab: l, c: dialEtcd(t, l.Wire(), etcdURL), h1: l.Hosts[0], h2: l.Hosts[1], h3: l.Hosts[2], h4: l.Hosts[3]}
	for _, h := range []*lab.Host{b.h1, b.h2} {
		noError(t, h.StartDaemon(t.Context(), jsonLog))
		learn(t, h)
	}
	waitPeers(t, b.h1, 1)
	there := startFlow(t, b.h1.Containers[0], b.h2.Containers[0], 10*time.Millisecond)
	back := startFlow(t, b.h2.Containers[1], b.h1.Containers[1], 10*time.Millisecond)

	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"no config at the start", b.noConfig},
		{"bad config at the start", b.badConfig},
		{"bad config at a restart", b.badConfigAtRestart},
		{"lease overwritten with garbage", b.leaseGarbled},
		{"two nodes with one PublicIP", b.onePublicIP},
		{"full maps", b.fullMaps},
	} {
		if !t.Run(test.name, test.run) {
			t.FailNow() // the next ones start from where this one should have ended
		}
	}
	there.intact()
	back.intact()
}

type badNodes struct {
	*lab.Lab
	c              *clientv3.Client
	h1, h2, h3, h4 *lab.Host
}

// noConfig starts h3 where etcd has no config.
func (b *badNodes) noConfig(t *testing.T) {
	config := get(t, b.c, "config")
	remove(t, b.c, "config")
	started := inBackground(func() error { return b.h3.StartDaemon(t.Context(), jsonLog, "--etcd-init-config=") })
	const text = "no network config in etcd: write one by \"etcdctl put /coreos.com/network/config " +
		"'{\"Network\":\"10.244.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"}}'\""
	waitProblems(t, b.h3, node.Problem{Source: "session", Text: text})
	b.startsWhenMended(t, started, text, func() { put(t, b.c, "config", config) })
	noError(t, b.h3.StopDaemon(t.Context()))
}

// badConfig starts h3 where etcd has one that cannot be used.
func (b *badNodes) badConfig(t *testing.T) {
	config := get(t, b.c, "config")
	put(t, b.c, "config", `{"Network":`)
	started := inBackground(func() error { return b.h3.StartDaemon(t.Context(), jsonLog) })
	const text = "read /coreos.com/network/config from etcd: bad network config: not JSON: unexpected end of JSON input"
	waitProblems(t, b.h3, node.Problem{Source: "session", Text: text})
	b.startsWhenMended(t, started, text, func() { put(t, b.c, "config", config) })
}

// startsWhenMended has something mended that keeps h3 from starting.
func (b *badNodes) startsWhenMended(t *testing.T, started background, text string, mend func()) {
	t.Helper()
	equal(t, "h3's warnings", []string{text}, warnings(t, b.h3, 0))
	mend()
	started.wait(t)
	for _, h := range []*lab.Host{b.h1, b.h2, b.h3} {
		waitProblems(t, h)
	}
	equal(t, "h3's warnings", []string{text}, warnings(t, b.h3, 0))
	noError(t, emptyLog(b.h3))
}

// badConfigAtRestart restarts h3 where etcd has none that can be used: the
// datapath of before works on.
func (b *badNodes) badConfigAtRestart(t *testing.T) {
	learn(t, b.h3)
	flow := startFlow(t, b.h3.Containers[0], b.h1.Containers[0], 10*time.Millisecond)
	config := get(t, b.c, "config")
	noError(t, b.h3.KillDaemon())
	put(t, b.c, "config", `{"Network":"10.0.0.0/33"}`)
	started := inBackground(func() error { return b.h3.StartDaemon(t.Context(), jsonLog) })
	const text = `read /coreos.com/network/config from etcd: bad network config: Network "10.0.0.0/33" is no network: give one such as "10.244.0.0/16"`
	waitProblems(t, b.h3, node.Problem{Source: "session", Text: text})
	b.startsWhenMended(t, started, text, func() { put(t, b.c, "config", config) })
	flow.intact()
}

// leaseGarbled overwrites the lease of h3 with what is none: what it said before is served.
func (b *badNodes) leaseGarbled(t *testing.T) {
	flow := startFlow(t, b.h3.Containers[0], b.h1.Containers[0], 10*time.Millisecond)
	put(t, b.c, leaseKey(b.h3), "garbage")
	const reason = "value is no lease: invalid character 'g' looking for beginning of value"
	const served = reason + "; what it said before is served: restart the node that wrote it"
	const key = "172.247.0.0-24"
	for _, h := range []*lab.Host{b.h1, b.h2} {
		waitProblems(t, h, node.Problem{Source: "etcd", Key: key, Text: served})
	}
	waitProblems(t, b.h3, node.Problem{Source: "etcd", Key: key, Text: served},
		node.Problem{Source: "lease", Text: "lease " + key + " was overwritten by what is none (" + reason + "): delete its key and it is put back"})
	flow.more(10)
	flow.intact()
	remove(t, b.c, leaseKey(b.h3))
	b.inStep(t)
	noError(t, emptyLog(b.h3))
}

// inStep waits until h1, h2 and h3 hold what etcd says, and nothing is wrong with it.
func (b *badNodes) inStep(t *testing.T) {
	t.Helper()
	until(t, "h3 has its lease", func() (bool, error) { return get(t, b.c, leaseKey(b.h3)) != "", nil })
	for _, h := range []*lab.Host{b.h1, b.h2, b.h3} {
		waitView(t, h, wantView(b.Lab, h, leases(t, b.c)...), time.Now())
		waitProblems(t, h)
	}
}

// onePublicIP starts h4 with the PublicIP of h3, whose lease it takes for its own from before, until h3
// answers. Both say so, once, and nothing changes for others; h3 is back once h4 is gone.
func (b *badNodes) onePublicIP(t *testing.T) {
	noError(t, b.h4.StartDaemon(t.Context(), jsonLog, "--public-ip="+b.h3.Addr.String()))
	const text = "lease 172.247.0.0-24 was written again by another process: " +
		"if another node has the PublicIP 192.168.32.247 too, give each its own"
	for _, h := range []*lab.Host{b.h3, b.h4} {
		waitProblems(t, h, node.Problem{Source: "lease", Text: text})
		equal(t, h.Name+"'s warnings", []string{text}, warnings(t, h, 0))
	}
	for _, h := range []*lab.Host{b.h1, b.h2} {
		waitProblems(t, h)
	}
	noError(t, b.h4.StopDaemon(t.Context()))
	remove(t, b.c, leaseKey(b.h3))
	b.inStep(t)
}

// fullMaps restarts h3 with maps that are too small for the leases that come:
// what there is room for, and its containers, are served on.
func (b *badNodes) fullMaps(t *testing.T) {
	three := func(length int) (all []store.Lease) {
		for i := range 3 {
			all = append(all, madeUp(fmt.Sprintf("172.244.%d.0/%d", 30+i, length), byte(30+i)))
		}
		return all
	}
	tests := []struct {
		name, flag string
		leases     []store.Lease
		problem    node.Problem
	}{
		{"hosts", "--max-hosts=4", three(24), node.Problem{Source: "dataplane", Text: "serve lease 172.244.30.0-24: " +
			"add host 192.168.32.30: map hosts is full (4 entries): raise --max-hosts (and 2 more)"}},
		{"routes", "--max-routes=2", three(25), node.Problem{Source: "dataplane", Text: "put 172.244.32.0/25 of network 0 in map routes: " +
			"map routes is full (2 entries): raise --max-routes"}},
		{"neigh and fdb", "--max-neighbours=2", three(24), node.Problem{Source: "dataplane", Text: "put 172.244.30.0 of network 0 in map neigh: " +
			"map neigh is full (2 entries): raise --max-neighbours (and 2 more); put 02:00:00:00:00:1e of VNI 1 in map fdb: " +
			"map fdb is full (2 entries): raise --max-neighbours (and 2 more)"}},
		{"endpoints", "--max-endpoints=1", nil, node.Problem{Source: "containers", Text: "put 172.247.0.3 of network 0 in map endpoints: " +
			"map endpoints is full (1 entries): raise --max-endpoints"}},
	}
	there := startFlow(t, b.h3.Containers[0], b.h1.Containers[0], 10*time.Millisecond)
	back := startFlow(t, b.h2.Containers[0], b.h3.Containers[1], 10*time.Millisecond)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			noError(t, b.h3.StopDaemon(t.Context()))
			noError(t, emptyLog(b.h3))
			noError(t, b.h3.StartDaemon(t.Context(), jsonLog, test.flag))
			learn(t, b.h3)
			putLeases(t, b.c, test.leases...)
			waitProblems(t, b.h3, test.problem)
			back.more(10)
			equal(t, "h3's warnings", []string{test.problem.Text}, warnings(t, b.h3, 0))
			for _, l := range test.leases {
				remove(t, b.c, leaseKeyOf(l))
			}
		})
	}
	there.intact()
	back.intact()
}
