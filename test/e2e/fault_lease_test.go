// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
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

// TestLeases changes what etcd says of the nodes under the daemons' feet, as it
// comes to be in clusters, where flannel goes wrong.
//
//	h1/c1 172.245.0.2      h2/c1 172.246.0.2
//	   h1 .245                h2 .246
//	     └──── 192.168.32.0/24 ───┘
//	               .1 etcd, the test's own
func TestLeases(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), func(o *lab.Options) {
		withEtcd(o)
		o.Containers = 1
	}, func(t *testing.T, l *lab.Lab) {
		startEtcd(t, l)
		c := &changed{Lab: l, c: dialEtcd(t, l.Wire(), etcdURL), h1: l.Hosts[0], h2: l.Hosts[1]}
		for _, h := range l.Hosts {
			noError(t, h.StartDaemon(t.Context(), jsonLog))
			learn(t, h)
		}
		waitEtcd(t, l, c.c)
		for _, test := range []struct {
			name string
			run  func(*testing.T)
		}{
			{"a peer changes under its key", c.peerChanges},
			{"own lease deleted", c.ownDeleted},
			{"own lease expired", c.ownExpired},
			{"own lease written by another", c.ownOverwritten},
			{"own subnet taken", c.ownTaken},
			{"leftovers of a crash", c.leftovers},
			{"VTEP MAC", c.vtepMAC},
		} {
			if !t.Run(test.name, test.run) {
				t.FailNow() // the next ones start from where this one should have ended
			}
		}
	})
}

type changed struct {
	*lab.Lab
	c      *clientv3.Client
	h1, h2 *lab.Host
}

// inStep waits until both hosts hold what etcd says with nothing wrong in it,
// and their containers reach each other.
func (c *changed) inStep(t *testing.T) {
	t.Helper()
	waitEtcd(t, c.Lab, c.c)
	for _, h := range c.Hosts {
		waitProblems(t, h)
	}
	ping(t, c.h1.Containers[0].NS, c.h2.Containers[0].Addr, lab.PingOptions{Count: 5, Interval: time.Millisecond})
}

// peerChanges has a peer's address, its VTEP MAC, both, and its backend change
// under the same key. Nothing is left of what it was.
func (c *changed) peerChanges(t *testing.T) {
	first := madeUp("172.244.9.0/24", 9)
	moved, remade, both, other := first, first, madeUp("172.244.9.0/24", 10), first
	moved.PublicIP = netip.MustParseAddr("192.168.32.99")
	remade.MAC = topology.MAC{2, 0, 0, 0, 0, 99}
	other.Backend, other.VNI, other.MAC = topology.EncapNone, 0, topology.MAC{}
	const refused = `has backend "host-gw", the network's is "vxlan": restart that node; not served`
	for _, lease := range []store.Lease{first, moved, first, remade, both, other, first} {
		putLeases(t, c.c, lease)
		held := []store.Lease{leaseOf(t, c.c, c.h1), leaseOf(t, c.c, c.h2), lease}
		var problems []node.Problem
		if lease == other {
			held, problems = held[:2], []node.Problem{{Source: "etcd", Key: "172.244.9.0-24", Text: refused}}
		}
		for _, h := range c.Hosts {
			waitView(t, h, wantView(c.Lab, h, held...), time.Now())
			waitProblems(t, h, problems...)
		}
	}
	remove(t, c.c, leaseKeyOf(first))
	c.inStep(t)
}

// ownDeleted: the lease is back at once, with the same subnet and VTEP MAC, and
// the node says so.
func (c *changed) ownDeleted(t *testing.T) {
	c.comesBack(t, func() { remove(t, c.c, leaseKey(c.h2)) })
}

// ownExpired is the same by the end of the grant.
func (c *changed) ownExpired(t *testing.T) {
	resp, err := c.c.Get(t.Context(), store.DefaultPrefix+"/"+leaseKey(c.h2))
	noError(t, err)
	c.comesBack(t, func() {
		_, err := c.c.Revoke(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
		noError(t, err)
	})
}

func (c *changed) comesBack(t *testing.T, lose func()) {
	t.Helper()
	mark := logMark(t, c.h2)
	before := get(t, c.c, leaseKey(c.h2))
	lose()
	until(t, "h2's lease is back", func() (bool, error) { return get(t, c.c, leaseKey(c.h2)) != "", nil })
	equal(t, "lease", before, get(t, c.c, leaseKey(c.h2)))
	c.inStep(t)
	equal(t, "h2's warnings", []string{"the node's lease was gone from etcd and has been put back"}, warnings(t, c.h2, mark))
}

// ownOverwritten: another node has written h2's key. h2 says so, and takes it
// back when that is gone.
func (c *changed) ownOverwritten(t *testing.T) {
	theirs := madeUp(c.h2.Subnet.String(), 99)
	putLeases(t, c.c, theirs)
	const text = "lease 172.246.0.0-24 was overwritten by node 192.168.32.99: restart one of the two nodes with another subnet, " +
		"or delete the key and it is put back"
	waitLeaseProblem(t, c.h2, text)
	remove(t, c.c, leaseKey(c.h2))
	until(t, "h2's lease is back", func() (bool, error) {
		return get(t, c.c, leaseKey(c.h2)) != "" && leaseOf(t, c.c, c.h2).PublicIP == c.h2.Addr, nil
	})
	c.inStep(t)
}

// ownTaken: h2 was away, its lease is gone and its subnet another's when it
// comes back. It takes another subnet.
func (c *changed) ownTaken(t *testing.T) {
	noError(t, c.h2.StopDaemon(t.Context()))
	remove(t, c.c, leaseKey(c.h2))
	theirs := madeUp(c.h2.Subnet.String(), 99)
	putLeases(t, c.c, theirs)
	noError(t, c.h2.StartDaemon(t.Context(), jsonLog))
	s, err := c.h2.DaemonStatus(t.Context())
	noError(t, err)
	if s.Subnet == c.h2.Subnet || !lab.Network.Contains(s.Subnet.Addr()) {
		t.Errorf("h2 serves %s, which is another's", s.Subnet)
	}
	equal(t, "subnet.env", s.Subnet.String(), subnetEnv(t, c.h2).Subnet.Masked().String())
	// Back to the first, for the containers have addresses of that.
	noError(t, c.h2.StopDaemon(t.Context()))
	moved := *c.h2
	moved.Subnet = s.Subnet
	remove(t, c.c, leaseKey(&moved))
	remove(t, c.c, leaseKeyOf(theirs))
	noError(t, store.SubnetEnv{Network: lab.Network, Subnet: c.h2.Subnet, MTU: 1450}.Write(c.h2.SubnetFile()))
	noError(t, c.h2.StartDaemon(t.Context(), jsonLog))
	c.inStep(t)
}

// waitLeaseProblem waits until a host's daemon has that to say of its own lease.
func waitLeaseProblem(t *testing.T, h *lab.Host, text string) {
	t.Helper()
	var last []node.Problem
	defer func() {
		if t.Failed() {
			t.Logf("problems of %s: %+v", h.Name, last)
		}
	}()
	until(t, h.Name+" says that "+text, func() (bool, error) {
		s, err := h.DaemonStatus(t.Context())
		last = s.Problems
		for _, p := range s.Problems {
			if p.Source == "lease" && p.Text == text {
				return true, err
			}
		}
		return false, err
	})
}

// leftovers are a route, a neighbour and an FDB entry of a peer that is none any
// more, and a route of ours elsewhere, as an earlier daemon might have left
// them. They are gone once the next daemon is ready; what is right, and a
// person's own route, stay.
func (c *changed) leftovers(t *testing.T) {
	noError(t, c.h2.KillDaemon())
	for _, command := range []string{
		"ip route add 172.244.66.0/24 via 172.244.66.0 dev bpfnet0 onlink proto 98",
		"ip route add 172.244.67.0/24 via 192.168.32.1 dev eth0 proto 98",
		"ip neigh add 172.244.66.0 lladdr 02:00:00:00:00:66 dev bpfnet0 nud permanent",
		"bridge fdb add 02:00:00:00:00:66 dev bpfnet0 dst 192.168.32.66",
		"ip route add 172.244.68.0/24 via 192.168.32.1 dev eth0",
	} {
		run(t, c.h2.NS, strings.Fields(command)...)
	}
	noError(t, c.h2.StartDaemon(t.Context(), jsonLog))
	v, err := viewOf(c.h2)
	noError(t, err)
	equal(t, "h2 once ready", wantView(c.Lab, c.h2, leases(t, c.c)...), v)
	run(t, c.h2.NS, "ip", "route", "del", "172.244.68.0/24")
	c.inStep(t)
}

// vtepMAC is the same after a restart, on a machine with another machine-id, and
// when its device was deleted meanwhile.
func (c *changed) vtepMAC(t *testing.T) {
	before := leaseOf(t, c.c, c.h2).MAC
	for name, between := range map[string]func(){
		"nothing":            func() {},
		"another machine-id": func() { otherMachineID(t) },
		"device deleted":     func() { run(t, c.h2.NS, "ip", "link", "del", "bpfnet0") },
	} {
		noError(t, c.h2.KillDaemon())
		between()
		noError(t, c.h2.StartDaemon(t.Context(), jsonLog))
		c.inStep(t)
		equal(t, "VTEP MAC in etcd after "+name, before, leaseOf(t, c.c, c.h2).MAC)
		equal(t, "VTEP MAC of the device after "+name, before, topology.MAC(mac(t, c.h2, "bpfnet0")))
	}
}

// otherMachineID has what this test starts see another machine-id, until it ends.
func otherMachineID(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine-id")
	noError(t, os.WriteFile(file, []byte("0123456789abcdef0123456789abcdef\n"), 0o644))
	noError(t, unix.Mount(file, "/etc/machine-id", "", unix.MS_BIND, ""))
	t.Cleanup(func() { noError(t, unix.Unmount("/etc/machine-id", unix.MNT_DETACH)) })
}

// TestSubnetRace starts two daemons at once that both want the same subnet: one
// gets it, the other another, and both serve.
//
//	as in TestLeases
func TestSubnetRace(t *testing.T) {
	l := up(t, func(o *lab.Options) {
		withEtcd(o)
		o.Containers = 0
	})
	startEtcd(t, l)
	wanted := netip.MustParsePrefix("172.244.50.0/24")
	var started []background
	for _, h := range l.Hosts {
		noError(t, store.SubnetEnv{Network: lab.Network, Subnet: wanted, MTU: 1450}.Write(h.SubnetFile()))
		started = append(started, inBackground(func() error { return h.StartDaemon(t.Context(), jsonLog) }))
	}
	winners := 0
	subnets := map[netip.Prefix]bool{}
	for i, h := range l.Hosts {
		started[i].wait(t)
		waitPeers(t, h, 1)
		waitProblems(t, h)
		equal(t, h.Name+"'s warnings", 0, len(warnings(t, h, 0)))
		env := subnetEnv(t, h)
		subnets[env.Subnet.Masked()] = true
		if env.Subnet.Masked() == wanted {
			winners++
		}
	}
	if winners != 1 || len(subnets) != 2 {
		t.Errorf("subnets %v: want one host to have %s and the other another", subnets, wanted)
	}
}
