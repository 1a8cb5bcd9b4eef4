// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// setInBackground asks a host's daemon for a dataplane.
func setInBackground(t *testing.T, h *lab.Host, d node.Dataplane) background {
	return inBackground(func() error {
		_, err := h.NS.Run(t.Context(), bpfnetBinary, "--run-dir", h.Dir, "dataplane", "set", string(d))
		return err
	})
}

// TestSwitchWhilePeersComeAndGo changes the dataplane of h1 and h2 while leases
// appear and disappear, and h3 joins, under pings between h1 and h2.
//
//	as in TestJoinAndLeave
func TestSwitchWhilePeersComeAndGo(t *testing.T) {
	forEachUp(t, modesOf(node.EBPF, topology.EncapVXLAN, topology.EncapNone), func(o *lab.Options) {
		withEtcd(o)
		o.Hosts = 3
	}, func(t *testing.T, l *lab.Lab) {
		startEtcd(t, l)
		c := dialEtcd(t, l.Wire(), etcdURL)
		h1, h2, h3 := l.Hosts[0], l.Hosts[1], l.Hosts[2]
		for _, h := range []*lab.Host{h1, h2} {
			noError(t, h.StartDaemon(t.Context()))
			learn(t, h)
		}
		waitPeers(t, h1, 1)
		there, back := crossing(t, h1, h2)
		changes := inBackground(func() error {
			for n := range 4 {
				d := []node.Dataplane{node.Netlink, node.EBPF}[n%2]
				for _, h := range []*lab.Host{h1, h2} {
					if err := <-setInBackground(t, h, d).err; err != nil {
						return err
					}
				}
			}
			return nil
		})
		for n := byte(20); !changes.ended(); n = 20 + (n+1)%50 {
			lease := madeUp(fmt.Sprintf("172.244.%d.0/24", n), n)
			lease.Backend = l.Options.Backend
			putLeases(t, c, lease)
			there.more(5)
			if n%3 != 0 { // every third stays
				remove(t, c, leaseKeyOf(lease))
			}
		}
		changes.wait(t)
		noError(t, h3.StartDaemon(t.Context()))
		since := time.Now()
		for _, h := range []*lab.Host{h1, h2} {
			waitView(t, h, wantView(l, h, leases(t, c)...), since)
			waitProblems(t, h)
		}
		ping(t, h3.Containers[0].NS, h1.Containers[0].Addr, lab.PingOptions{Count: 10})
		there.lossless()
		back.lossless()
	})
}

// TestSwitchRivals: of two changes at once one is made, and the other made or
// refused; nothing is left half done.
//
//	as in TestRestart
func TestSwitchRivals(t *testing.T) {
	l := serve(t, nil)
	h := l.Hosts[1]
	there, back := crossing(t, l.Hosts[0], h)
	for range 5 {
		rivals := []background{setInBackground(t, h, node.Netlink), setInBackground(t, h, node.EBPF), setInBackground(t, h, node.Netlink)}
		made := 0
		for _, r := range rivals {
			err := <-r.err
			if err == nil {
				made++
			} else if !strings.Contains(err.Error(), "under way") {
				t.Errorf("refused for another reason: %v", err)
			}
		}
		if made == 0 {
			t.Error("none of three changes at once was made")
		}
	}
	bpfnet(t, h, "dataplane", "set", "ebpf")
	waitAttached(t, l, h, "tcx")
	there.lossless()
	back.lossless()
}

// TestSwitchWhileEtcdAway asks h1 for another dataplane while etcd is away. It
// logs what it waits for, carries on as before, and makes the change when etcd
// is back.
//
//	as in TestEtcdAway
func TestSwitchWhileEtcdAway(t *testing.T) {
	l := up(t, withEtcd)
	server := startEtcd(t, l)
	c := dialEtcd(t, l.Wire(), etcdURL)
	h1, h2 := l.Hosts[0], l.Hosts[1]
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), jsonLog))
		learn(t, h)
	}
	waitEtcd(t, l, c)
	there, back := crossing(t, h1, h2)
	for _, d := range []node.Dataplane{node.Netlink, node.EBPF} {
		mark := logMark(t, h1)
		server.stop()
		waitLog(t, h1, mark, "etcd is out of reach; what it said last stays in force")
		mark = logMark(t, h1)
		asked := setInBackground(t, h1, d)
		waitLog(t, h1, mark, "etcd is out of reach; what it said last stays in force")
		there.more(100)
		if asked.ended() {
			t.Errorf("the change ended while etcd was away: %v", <-asked.err)
		}
		server.start(etcdURL)
		asked.wait(t)
		equal(t, "dataplane", string(d)+"\n", bpfnet(t, h1, "dataplane", "get"))
		waitProblems(t, h1)
	}
	there.lossless()
	back.lossless()
}

// TestKilledInMidSwitch kills the daemon of h2 at some time in a change of its
// dataplane, and starts it with either flag. Pings go on throughout, and what
// is there in the end is what the flag says and nothing else.
//
//	as in TestRestart
func TestKilledInMidSwitch(t *testing.T) {
	for _, backend := range []topology.Encap{topology.EncapVXLAN, topology.EncapNone} {
		t.Run(string(backend), func(t *testing.T) {
			l := serve(t, func(o *lab.Options) { o.Backend = backend })
			h := l.Hosts[1]
			there, back := crossing(t, l.Hosts[0], h)
			now := node.EBPF
			for n := range 8 {
				next := map[node.Dataplane]node.Dataplane{node.EBPF: node.Netlink, node.Netlink: node.EBPF}[now]
				change := setInBackground(t, h, next)
				wait := time.NewTimer(time.Duration(20*n) * time.Millisecond) // a change takes some 100 ms
				<-wait.C
				noError(t, h.KillDaemon())
				<-change.err
				if n%4 < 2 {
					now = next
				}
				l.Options.Dataplane = now
				noError(t, h.StartDaemon(t.Context()))
				waitPeers(t, h, 1)
				waitAttached(t, l, h, "tcx")
				equal(t, "overlay devices", wantDevices[modeOf(l).device()], overlayDevices(t, h))
				there.more(20)
				back.more(20)
			}
			there.lossless()
			back.lossless()
		})
	}
}
