// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// router is the underlay's, which knows no way to the containers.
var router = netip.MustParseAddr("192.168.32.1")

// dockerRules are what Docker does to the packet filter, on the container
// network: FORWARD drops, and what leaves by another than the bridge is masqueraded.
func dockerRules(t *testing.T, h *lab.Host) {
	t.Helper()
	run(t, h.NS, "iptables", "-P", "FORWARD", "DROP")
	run(t, h.NS, "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", h.Subnet.String(), "!", "-o", h.Bridge, "-j", "MASQUERADE")
}

// filterRules are all rules of a host, for people.
func filterRules(t *testing.T, h *lab.Host) string {
	t.Helper()
	return run(t, h.NS, "nft", "--stateless", "list", "ruleset")
}

// TestFirewall: with --ip-masq containers reach what knows no way to them, by
// their host's address, and each other by their own, past Docker's rules, on
// either dataplane's way; and cleanup leaves Docker's rules as they were.
func TestFirewall(t *testing.T) {
	for _, way := range []struct {
		dataplane node.Dataplane
		fastPath  string
	}{
		{node.EBPF, "true"}, {node.EBPF, "false"}, {node.Netlink, "true"},
	} {
		t.Run(fmt.Sprint(way.dataplane, " fast path ", way.fastPath), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Dataplane = way.dataplane })
			var before []string
			for _, h := range l.Hosts {
				dockerRules(t, h)
				before = append(before, filterRules(t, h))
			}
			startDaemons(t, l, "--ip-masq", "--fast-path="+way.fastPath)
			h1, h2 := l.Hosts[0], l.Hosts[1]
			from, to := h1.Containers[0], h2.Containers[0]
			for _, test := range []struct {
				name string
				ns   lab.Namespace
				addr netip.Addr
				want netip.Addr // source that is seen there
			}{
				{"outside", l.Wire(), router, h1.Addr},
				{"another node", h2.NS, h2.Addr, h1.Addr},
				{"another node's bridge", h2.NS, h2.Gateway(), from.Addr},
				{"a remote container", to.NS, to.Addr, from.Addr},
				{"a container of the host", h1.Containers[1].NS, h1.Containers[1].Addr, from.Addr},
			} {
				t.Run(test.name, func(t *testing.T) {
					if got := sourceSeen(t, from.NS, test.ns, test.addr); got != test.want {
						t.Errorf("%s sees %s, want %s", test.addr, got, test.want)
					}
				})
			}
			env, err := os.ReadFile(h1.SubnetFile())
			noError(t, err)
			if !strings.HasSuffix(string(env), "FLANNEL_IPMASQ=true\n") {
				t.Errorf("subnet.env is\n%s", env)
			}
			for i, h := range l.Hosts {
				noError(t, h.StopDaemon(t.Context()))
				bpfnet(t, h, "cleanup")
				equal(t, "rules of "+h.Name, before[i], filterRules(t, h))
			}
		})
	}
}

// sourceSeen is the address that a TCP connection comes from, where it goes to.
func sourceSeen(t *testing.T, from, to lab.Namespace, addr netip.Addr) netip.Addr {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	target := netip.AddrPortFrom(addr, 4711).String()
	in, err := to.Listen(ctx, "tcp", target)
	noError(t, err)
	defer in.Close()
	out, err := from.Dial(ctx, "tcp", target)
	noError(t, err)
	defer out.Close()
	conn, err := in.Accept()
	noError(t, err)
	defer conn.Close()
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
}
