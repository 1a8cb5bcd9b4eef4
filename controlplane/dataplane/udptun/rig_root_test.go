// SPDX-License-Identifier: Apache-2.0

//go:build root

package udptun_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
	"github.com/bpfnet/bpfnet/test/lab"
)

// The rig, each node a network namespace, each container an address on its lo:
//
//	left                                         right
//	172.245.0.2 (lo)                             172.246.0.2 (lo)
//	172.245.0.0 (bpfnet-tun)                     172.246.0.0 (bpfnet-tun)
//	192.168.32.245 (eth0) ---------------------- 192.168.32.246 (eth0)
const port = 8285

var (
	left  = netip.MustParsePrefix("172.245.0.0/24")
	right = netip.MustParsePrefix("172.246.0.0/24")
	third = netip.MustParsePrefix("172.247.0.0/24") // of nobody, at an address that nobody has
	nodeA = netip.MustParseAddr("192.168.32.245")
	nodeB = netip.MustParseAddr("192.168.32.246")
	nodeC = netip.MustParseAddr("192.168.32.247")
)

type node struct {
	lab.Namespace
	addr      netip.Addr
	subnet    netip.Prefix
	container string
	tunnel    *udptun.Tunnel
	stop      func() error // ends Run
}

type rig struct {
	*testing.T
	ctx         context.Context
	left, right *node
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	r := &rig{T: t, ctx: ctx,
		left:  &node{Namespace: "udptun-left", addr: nodeA, subnet: left, container: "172.245.0.2"},
		right: &node{Namespace: "udptun-right", addr: nodeB, subnet: right, container: "172.246.0.2"},
	}
	for _, n := range []*node{r.left, r.right} {
		r.host("ip netns add " + string(n.Namespace))
		t.Cleanup(func() { r.host("ip netns del " + string(n.Namespace)) })
	}
	r.host("ip link add eth0 netns udptun-left type veth peer name eth0 netns udptun-right")
	for _, n := range []*node{r.left, r.right} {
		r.run(n, "ip link set lo up")
		r.run(n, "ip link set eth0 up")
		r.run(n, fmt.Sprintf("ip addr add %s/24 dev eth0", n.addr))
		r.run(n, fmt.Sprintf("ip addr add %s/32 dev lo", n.container))
	}
	for _, n := range []*node{r.left, r.right} { // until then it drops what it is given, and its route is "linkdown"
		r.until("the veth is up", func() bool { return strings.Contains(r.run(n, "ip link show eth0"), "state UP") })
	}
	return r
}

// newPair is a rig with both tunnels running.
func newPair(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	for _, n := range []*node{r.left, r.right} {
		r.open(n)
		r.route(n)
		r.start(n)
	}
	return r
}

func (r *rig) other(n *node) *node {
	if n == r.left {
		return r.right
	}
	return r.left
}

func (r *rig) peer(n *node) udptun.Peer { return udptun.Peer{n.subnet, n.addr} }

func options(n *node) udptun.Options {
	return udptun.Options{Subnet: n.subnet, Node: n.addr, Port: port, MTU: 1472, Logger: slog.New(slog.DiscardHandler)}
}

func openIn(n *node, o udptun.Options) (t *udptun.Tunnel, err error) {
	err = n.Do(func() error {
		t, err = udptun.Open(o)
		return err
	})
	return t, err
}

func (r *rig) open(n *node) {
	r.Helper()
	tunnel, err := openIn(n, options(n))
	if err != nil {
		r.Fatal(err)
	}
	n.tunnel = tunnel
	n.tunnel.SetPeers([]udptun.Peer{r.peer(r.other(n))})
	r.Cleanup(func() { r.close(n) })
}

func (r *rig) close(n *node) {
	r.Helper()
	if n.tunnel == nil {
		return
	}
	if err := n.tunnel.Close(); err != nil {
		r.Error(err)
	}
	n.tunnel = nil
}

// route gives the device its address and all of the overlay, also what no peer has.
func (r *rig) route(n *node) {
	r.Helper()
	r.run(n, fmt.Sprintf("ip addr add %s/32 dev %s", n.subnet.Addr(), udptun.DeviceName))
	r.run(n, fmt.Sprintf("ip route add 172.244.0.0/14 dev %s src %s", udptun.DeviceName, n.container))
}

func (r *rig) start(n *node) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	tunnel := n.tunnel
	go func() { done <- tunnel.Run(ctx) }()
	stopped := false
	n.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("Run does not end")
		}
	}
	stop := n.stop
	r.Cleanup(func() {
		if err := stop(); err != nil {
			r.Error(err)
		}
	})
}

func (r *rig) stop(n *node) {
	r.Helper()
	if err := n.stop(); err != nil {
		r.Fatal(err)
	}
}

// run runs a command of words in the node's namespace.
func (r *rig) run(n *node, command string) string {
	r.Helper()
	out, err := n.Run(r.ctx, strings.Fields(command)...)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// host runs a command outside of all of them, also while the test is cleaned up.
func (r *rig) host(command string) {
	r.Helper()
	if out, err := execute(command); err != nil {
		r.Errorf("%s: %v: %s", command, err, out)
	}
}

func (r *rig) until(what string, done func() bool) {
	r.Helper()
	if err := lab.Until(r.ctx, what, func() (bool, error) { return done(), nil }); err != nil {
		r.Fatal(err)
	}
}

// counted waits until a node has counted what it copied: what a ping has seen may not be yet.
func (r *rig) counted(n *node, is func(udptun.Stats) bool) {
	r.Helper()
	if err := lab.Until(r.ctx, "all is counted", func() (bool, error) { return is(n.tunnel.Stats()), nil }); err != nil {
		r.Fatalf("%s: %v: %+v", n.Namespace, err, n.tunnel.Stats())
	}
}

// inDelivers is how many IPv4 packets the node's sockets have been given: ipInDelivers of RFC 4293.
func (r *rig) inDelivers(n *node) int {
	r.Helper()
	lines := strings.Split(r.run(n, "cat /proc/net/snmp"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "InDelivers")
	delivered, err := strconv.Atoi(strings.Fields(lines[1])[column])
	if err != nil {
		r.Fatal(err)
	}
	return delivered
}

// drops checks that exactly these were dropped.
func (r *rig) drops(n *node, want map[udptun.Reason]uint64) {
	r.Helper()
	for reason, got := range n.tunnel.Stats().Drops {
		if got != want[reason] {
			r.Errorf("%s dropped %d as %s, want %d", n.Namespace, got, reason, want[reason])
		}
	}
}

func execute(command string) (string, error) {
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	return string(out), err
}
