// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestEtcdAway takes etcd away under two pings, changes it where the hosts do
// not see it, and brings it back.
//
//	h1/c1 172.245.0.2  h1/c2 .3      h2/c1 172.246.0.2  h2/c2 .3
//	      └── h1 .245 ───┘                └── h2 .246 ────┘
//	            └────────── 192.168.32.0/24 ───┘
//	                           .1 etcd, the test's own
func TestEtcdAway(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), withEtcd, testEtcdAway)
}

func testEtcdAway(t *testing.T, l *lab.Lab) {
	server := startEtcd(t, l)
	h1, h2 := l.Hosts[0], l.Hosts[1]
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), jsonLog))
		learn(t, h)
	}
	c := dialEtcd(t, l.Wire(), etcdURL)
	putLeases(t, c, madeUp("172.244.8.0/24", 8))
	putLeases(t, c, madeUp("172.244.9.0/24", 9))
	waitEtcd(t, l, c)

	tests := []struct {
		name      string
		lossless  bool // a lease that somebody deleted is not served until it is back
		meanwhile func(c *clientv3.Client)
	}{
		{"nothing meanwhile", true, func(*clientv3.Client) {}},
		{"a difference meanwhile", true, func(c *clientv3.Client) {
			remove(t, c, "subnets/172.244.8.0-24")
			putLeases(t, c, madeUp("172.244.9.0/24", 99))
			putLeases(t, c, madeUp("172.244.10.0/24", 10))
		}},
		{"a difference and a compaction meanwhile", true, func(c *clientv3.Client) {
			remove(t, c, "subnets/172.244.9.0-24")
			putLeases(t, c, madeUp("172.244.10.0/24", 100))
			putLeases(t, c, madeUp("172.244.11.0/24", 11))
			compact(t, c)
		}},
		{"a host's lease is lost meanwhile", false, func(c *clientv3.Client) {
			remove(t, c, leaseKey(h2))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			away := func() { takeAway(t, l, server, c, test.meanwhile) }
			if test.lossless {
				there, back := crossing(t, h1, h2)
				away()
				there.intact()
				back.intact()
				return
			}
			away()
			ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 10, Interval: time.Millisecond})
		})
	}
}

// takeAway stops etcd, changes what it holds, and starts it again.
func takeAway(t *testing.T, l *lab.Lab, server *etcdServer, c *clientv3.Client, meanwhile func(*clientv3.Client)) {
	t.Helper()
	const away = "etcd is out of reach; what it said last stays in force"
	var before []datapath
	var marks []int64
	for _, h := range l.Hosts {
		before, marks = append(before, datapathOf(t, h)), append(marks, logMark(t, h))
	}
	server.stop()
	for i, h := range l.Hosts {
		waitLog(t, h, marks[i], away)
		until(t, h.Name+"'s status tells too", func() (bool, error) {
			s, err := h.DaemonStatus(t.Context())
			return slices.ContainsFunc(s.Problems, func(p node.Problem) bool {
				return p.Source == "etcd server" && strings.HasPrefix(p.Text, away)
			}), err
		})
	}
	changeUnseen(t, l, server, meanwhile)
	for i, h := range l.Hosts {
		equal(t, h.Name+"'s datapath while etcd is away", before[i], datapathOf(t, h))
	}
	server.start(etcdURL)
	t.Logf("in step again after %v", waitEtcd(t, l, c))
	for i, h := range l.Hosts {
		waitLog(t, h, marks[i], "etcd is back")
		waitProblems(t, h)
		equal(t, h.Name+"'s warnings", []string{away}, warningsBut(t, h, marks[i], "has been put back"))
	}
}

// changeUnseen serves what etcd holds at another address, for the test alone.
func changeUnseen(t *testing.T, l *lab.Lab, server *etcdServer, change func(*clientv3.Client)) {
	t.Helper()
	const url = "http://127.0.0.1:12379" // the wire's own
	server.start(url)
	change(dialEtcd(t, l.Wire(), url))
	server.stop()
}

func compact(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	resp, err := c.Get(ctx, "/")
	noError(t, err)
	_, err = c.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	noError(t, err)
}

// waitEtcd waits until all hosts hold what etcd says, each host's own lease
// included, and returns how long that took.
func waitEtcd(t *testing.T, l *lab.Lab, c *clientv3.Client) time.Duration {
	t.Helper()
	since := time.Now()
	until(t, "all leases are there", func() (bool, error) {
		held := 0
		for _, lease := range leases(t, c) {
			for _, h := range l.Hosts {
				if lease.PublicIP == h.Addr {
					held++
				}
			}
		}
		return held == len(l.Hosts), nil
	})
	all := leases(t, c)
	for _, h := range l.Hosts {
		waitView(t, h, wantView(l, h, all...), since)
	}
	return time.Since(since)
}
