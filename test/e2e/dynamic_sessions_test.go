// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestNetworkChanges has the network config change 20 times while the daemons
// run. They follow, traffic goes on by the new way, nothing is left of the old
// one, and nothing leaks.
//
//	h1/c1 172.245.0.2      h2/c1 172.246.0.2
//	   h1 .245                h2 .246
//	     └──── 192.168.32.0/24 ───┘
//	               .1 etcd, the test's own
func TestNetworkChanges(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), func(o *lab.Options) {
		withEtcd(o)
		o.Containers = 1
	}, testNetworkChanges)
}

func testNetworkChanges(t *testing.T, l *lab.Lab) {
	changes := networkChanges
	if l.Options.Dataplane == node.Netlink { // this kernel has no ipip device
		changes = slices.DeleteFunc(slices.Clone(changes), func(n networkChange) bool { return n.backend == topology.EncapIPIP })
	}
	startEtcd(t, l)
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), jsonLog))
		learn(t, h)
	}
	c := dialEtcd(t, l.Wire(), etcdURL)
	waitEtcd(t, l, c)
	var before []resources
	for n := range 20 {
		change := changes[n%len(changes)]
		t.Logf("%s: followed after %v", change.config, change.make(t, l, c))
		ping(t, l.Hosts[0].Containers[0].NS, l.Hosts[1].Containers[0].Addr, lab.PingOptions{Count: 20, Interval: time.Millisecond})
		ping(t, l.Hosts[1].NS, l.Hosts[0].Containers[0].Addr, lab.PingOptions{Count: 20, Interval: time.Millisecond})
		if n == len(changes)-1 { // by now there is what is made only once
			before = []resources{resourcesOf(t, l.Hosts[0]), resourcesOf(t, l.Hosts[1])}
		}
	}
	for i, h := range l.Hosts {
		after := resourcesOf(t, h)
		equal(t, h.Name+"'s pins", before[i].pins, after.pins)
		until(t, fmt.Sprintf("%s has no more files open than %d", h.Name, before[i].files), func() (bool, error) { // than what it does just now
			return resourcesOf(t, h).files <= before[i].files, nil
		})
	}
	// h2's daemon is a new one: its goroutines are those of one session.
	noError(t, l.Hosts[1].KillDaemon())
	noError(t, l.Hosts[1].StartDaemon(t.Context(), jsonLog))
	waitPeers(t, l.Hosts[1], 1)
	old, fresh := goroutines(t, l.Hosts[0]), goroutines(t, l.Hosts[1])
	t.Logf("%d goroutines after 20 sessions, %d in the first", old, fresh)
	if old > fresh+10 { // there may be a few between two waits
		t.Errorf("%d goroutines after 20 sessions, %d in the first", old, fresh)
	}
}

// networkChange is a network config, and what comes of it.
type networkChange struct {
	config  string
	backend topology.Encap
	vni     uint32
	mtu     int // of containers
}

var networkChanges = []networkChange{
	{`{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"ipip"}}`, topology.EncapIPIP, 0, 1480},
	{`{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":7}}`, topology.EncapVXLAN, 7, 1450},
	{`{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"host-gw"}}`, topology.EncapNone, 0, 1500},
	{`{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"vxlan","MTU":1400}}`, topology.EncapVXLAN, 1, 1350},
	{`{"Network":"172.240.0.0/12","SubnetLen":24,"Backend":{"Type":"udp"}}`, topology.EncapUDP, 0, 1472},
}

// make writes the config and waits until both hosts hold what it means, and
// nothing is wrong. It returns how long that took.
func (n networkChange) make(t *testing.T, l *lab.Lab, c *clientv3.Client) time.Duration {
	t.Helper()
	since := time.Now()
	put(t, c, "config", n.config)
	for _, h := range l.Hosts {
		until(t, "etcd says so of "+h.Name, func() (bool, error) {
			lease := leaseOf(t, c, h)
			return lease.Backend == n.backend && lease.VNI == n.vni, nil
		})
	}
	network := networkOf(t, n.config)
	for _, h := range l.Hosts {
		if n.backend == topology.EncapVXLAN { // routes, neighbours and FDB are the same with any VNI
			until(t, h.Name+"'s device has the VNI", func() (bool, error) {
				link, err := h.NS.Run(t.Context(), "ip", "-d", "link", "show", "dev", "bpfnet0")
				return err == nil && strings.Contains(link, fmt.Sprintf(" vxlan id %d ", n.vni)), nil
			})
		}
		waitView(t, h, wantView(l, h, leases(t, c)...), since)
		waitProblems(t, h)
		until(t, "subnet.env of "+h.Name+" says so", func() (bool, error) {
			return subnetEnv(t, h) == store.SubnetEnv{Network: network.Network, Subnet: h.Subnet, MTU: n.mtu}, nil
		})
	}
	return time.Since(since)
}

func networkOf(t *testing.T, config string) store.Config {
	t.Helper()
	c, err := store.ParseConfig([]byte(config))
	noError(t, err)
	return c
}

// resources are what a daemon could leak.
type resources struct {
	files int
	pins  []string
}

func resourcesOf(t *testing.T, h *lab.Host) (r resources) {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemonPID(t, h)))
	noError(t, err)
	r.files = len(files)
	for _, dir := range []string{"maps", "links"} {
		forEachPin(t, h, dir, func(name, _ string) {
			program, _, _ := strings.Cut(name, "-") // from the ifindex
			r.pins = append(r.pins, dir+"/"+program)
		})
	}
	return r
}

// goroutines ends a host's daemon and counts them: the Go runtime lists them at SIGQUIT.
func goroutines(t *testing.T, h *lab.Host) int {
	t.Helper()
	mark, pid := logMark(t, h), daemonPID(t, h)
	noError(t, unix.Kill(pid, unix.SIGQUIT))
	until(t, h.Name+"'s daemon ends", func() (bool, error) { return !h.DaemonAlive(), nil })
	log, err := os.ReadFile(h.LogFile())
	noError(t, err)
	return bytes.Count(log[mark:], []byte("\ngoroutine "))
}

// daemonPID is of the daemon that the lab last started on a host.
func daemonPID(t *testing.T, h *lab.Host) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.Dir, "daemon.json"))
	noError(t, err)
	var p struct{ PID int }
	noError(t, json.Unmarshal(data, &p))
	return p.PID
}
