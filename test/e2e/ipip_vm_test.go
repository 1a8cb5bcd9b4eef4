// SPDX-License-Identifier: Apache-2.0

//go:build root && vm

package e2e

import (
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// The kernels of the virtual machines (test/vm) have an ipip device: they must
// have it, for what is run there alone is nowhere skipped for its want.

// switchable are the backends that the kernel has devices for, in both dataplanes.
var switchable = backends

// dualBackends are those that carry IPv6 too.
var dualBackends = []topology.Encap{topology.EncapVXLAN, topology.EncapNone, topology.EncapIPIP}

// ipipSites of TestMatrix have our programs on h1, and on h2 the kernel's device for
// IP in IP of each two families: each sends to the other what it would itself.
var ipipSites = []site{
	{topology.EncapIPIP, lab.V4, lab.V4, mixed},
	{topology.EncapIPIP, lab.V6, lab.V6, mixed},
	{topology.EncapIPIP, lab.V6, lab.V4, mixed},
	{topology.EncapIPIP, lab.V4, lab.V6, mixed},
}

// TestKernelIPIPPeer has bpfnet on h1 alone, in either dataplane. h2 is set up by
// hand with the kernel's ipip device (SCENARIOS A2; topology as TestOverlay).
func TestKernelIPIPPeer(t *testing.T) {
	forEachIPIP(t, nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		from, to := h1.Containers[0], h2.Containers[0]
		request, reply := pingOnWire(t, l, from.NS, to.Addr)
		in := inner{src: from.Addr, dst: to.Addr, icmp: "EchoRequest", ttl: 63, df: true, length: 84}
		equal(t, "request by bpfnet", wireLines(t, l, h1, h2, in, 0), describe(request))
		in.src, in.dst, in.icmp, in.df = to.Addr, from.Addr, "EchoReply", false
		equal(t, "reply by the kernel", wireLines(t, l, h2, h1, in, 0), describe(reply))
		converse(t, from, to)
	})
}

// TestKernelIPIPPeerRouted is the same with a router between the hosts (SCENARIOS A3).
func TestKernelIPIPPeerRouted(t *testing.T) {
	forEachIPIP(t, routed, func(t *testing.T, l *lab.Lab) {
		converse(t, l.Hosts[0].Containers[0], l.Hosts[1].Containers[0])
	})
}

// forEachIPIP runs a test with each dataplane on h1, h2 made a node by hand.
func forEachIPIP(t *testing.T, change func(*lab.Options), f func(*testing.T, *lab.Lab)) {
	for _, d := range []node.Dataplane{node.EBPF, node.Netlink} {
		m := mode{d, topology.EncapIPIP}
		t.Run(m.String(), func(t *testing.T) {
			l := up(t, m.in(change))
			noError(t, l.Hosts[0].StartDaemon(t.Context()))
			joinByTunnel(t, l, l.Hosts[0], l.Hosts[1])
			waitPeers(t, l.Hosts[0], 1)
			learn(t, l.Hosts[0])
			f(t, l)
		})
	}
}

// converse has containers of two hosts talk, both ways.
func converse(t *testing.T, a, b *lab.Container) {
	t.Helper()
	for _, way := range [][2]*lab.Container{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		if ttl := ping(t, from.NS, to.Addr, lab.PingOptions{Count: 5, Interval: time.Millisecond}); ttl != 62 {
			t.Errorf("ping shows ttl=%d, want 62", ttl)
		}
		noError(t, lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, 1<<20))
		sendDatagrams(t, from.NS, to.NS, to.Addr, 1, 1000, 4000, 65507)
	}
}

// joinByTunnel makes a host a node by ip tunnel and a record in etcd.
func joinByTunnel(t *testing.T, l *lab.Lab, h1, h *lab.Host) {
	t.Helper()
	for _, command := range [][]string{
		{"sysctl", "-q", "-w", "net.ipv4.ip_forward=1"},
		{"ip", "tunnel", "add", "tunl1", "mode", "ipip", "local", h.Addr.String(), "nopmtudisc"},
		{"ip", "link", "set", "tunl1", "up", "mtu", "1480"},
		{"ip", "route", "add", h1.Subnet.String(), "via", h1.Addr.String(), "dev", "tunl1", "onlink"},
	} {
		run(t, h.NS, command...)
	}
	record := `{"PublicIP":"` + h.Addr.String() + `","PublicIPv6":null,"BackendType":"ipip"}`
	_, err := etcd(t, l).Put(t.Context(), "/coreos.com/network/subnets/172.246.0.0-24", record)
	noError(t, err)
}
