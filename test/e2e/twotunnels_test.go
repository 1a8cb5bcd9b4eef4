// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestTwoTunnels: an skb knows of one tunnel (skb->encapsulation of include/linux/skbuff.h), and may have it before we
// encapsulate it, which the kernel's devices take, and so have the programs to. Topology as TestOverlay.
func TestTwoTunnels(t *testing.T) {
	forEachSite(t, append([]site{
		{backend: topology.EncapVXLAN, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
		{backend: topology.EncapIPIP, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
		{backend: topology.EncapUDP, inner: lab.V4, outer: lab.V4, dataplanes: bothEBPF},
		{backend: topology.EncapVXLAN, inner: lab.V4, outer: lab.V4, dataplanes: bothNetlink},
	}, sitesV6...), nil, func(t *testing.T, l *lab.Lab) {
		t.Run("containers' own", func(t *testing.T) { testTunnelInside(t, l) })
		if l.Options.Inner == lab.V4 {
			t.Run("relayed", func(t *testing.T) { testRelay(t, l) })
		}
	})
}

// testTunnelInside has two containers run a tunnel of their own through the overlay, as Kubernetes in Docker does:
// TCP, by superpackets and without, and datagrams, whole and in fragments.
func testTunnelInside(t *testing.T, l *lab.Lab) {
	f := l.Options.Inner
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	for i, c := range []*lab.Container{from, to} {
		local, remote := from.In(f), to.In(f)
		if c == to {
			local, remote = remote, local
		}
		run(t, c.NS, "ip", "link", "add", "inside", "mtu", fmt.Sprint(l.Options.ContainerMTU()-70), "type", "vxlan",
			"id", "42", "local", local.String(), "remote", remote.String(), "dstport", "4789")
		run(t, c.NS, "ip", "address", "add", fmt.Sprintf("10.99.0.%d/24", i+1), "dev", "inside")
		run(t, c.NS, "ip", "link", "set", "inside", "up")
	}
	at := netip.MustParseAddrPort("10.99.0.2:7")
	echo(t, to.NS, at)
	undropped(t, l, func() { exchangeBy(t, from, at) })
	if l.Options.Dataplane == node.EBPF && (l.Options.Backend == topology.EncapVXLAN || l.Options.Backend == topology.EncapIPIP) {
		if n := counters(t, l.Hosts[0])[counterKey("from_host pass/not_encapsulable")]; n == 0 {
			t.Error("no superpacket came from inside of a tunnel: the test shows nothing")
		}
	}
}

// testRelay has a container forward to a third one what comes to it: what was in the tunnel goes into it again.
func testRelay(t *testing.T, l *lab.Lab) {
	from, to, relay := l.Hosts[0].Containers[0], l.Hosts[0].Containers[1], l.Hosts[1].Containers[1]
	run(t, relay.NS, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	run(t, relay.NS, "iptables-nft", "-w", "-t", "nat", "-A", "PREROUTING", "-d", relay.Addr.String(), "-j", "DNAT", "--to-destination", to.Addr.String())
	run(t, relay.NS, "iptables-nft", "-w", "-t", "nat", "-A", "POSTROUTING", "-d", to.Addr.String(), "-j", "MASQUERADE")
	echo(t, to.NS, netip.AddrPortFrom(to.Addr, 7))
	undropped(t, l, func() { exchangeBy(t, from, netip.AddrPortFrom(relay.Addr, 7)) })
}

func exchangeBy(t *testing.T, from *lab.Container, at netip.AddrPort) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	conn, err := from.NS.Dial(ctx, "tcp4", at.String())
	noError(t, err)
	defer conn.Close()
	exchange(t, conn)
	datagrams(t, from.NS, at, 1, 1000, 3000, 65000)
}

// undropped fails the test where the programs drop something meanwhile.
func undropped(t *testing.T, l *lab.Lab, f func()) {
	t.Helper()
	if l.Options.Dataplane == node.Netlink {
		f()
		return
	}
	var before []lab.Counters
	for _, h := range l.Hosts {
		before = append(before, counters(t, h))
	}
	f()
	for i, h := range l.Hosts {
		for k, n := range counters(t, h).Since(before[i]) {
			if k.Verdict == "drop" {
				t.Errorf("%s dropped %d packets: %v", h.Name, n, k)
			}
		}
	}
}
