// SPDX-License-Identifier: Apache-2.0

//go:build root

package underlay

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

func run(t *testing.T, command string) {
	t.Helper()
	args := strings.Fields(command)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// pathCase is a way that is asked for, and the answer.
type pathCase struct {
	setup []string
	node  string
	iface string
	want  topology.Path // without Ifindex; Ethernet, but for iface tun0
	err   string
}

// checkPaths runs each case in a namespace that enter makes.
func checkPaths(t *testing.T, enter func(*testing.T), cases map[string]pathCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			enter(t)
			for _, c := range tc.setup {
				run(t, c)
			}
			got, err := PathTo(netip.MustParseAddr(tc.node))
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got %+v, error %v, want error %s", got, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Ethernet = tc.iface != "tun0"
			tc.want.Ifindex = nstest.Link(t, tc.iface).Attrs().Index
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("path (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPathTo(t *testing.T) {
	addr := netip.MustParseAddr
	checkPaths(t, node, map[string]pathCase{
		"on the link": {node: "192.168.32.246", iface: "eth0", want: topology.Path{NextHop: addr("192.168.32.246"), MTU: 1500}},
		"by a router": {node: "10.7.0.9", iface: "eth0", want: topology.Path{NextHop: addr("192.168.32.1"), MTU: 1500}},
		"jumbo link":  {node: "10.0.0.6", iface: "eth1", want: topology.Path{NextHop: addr("10.0.0.6"), MTU: 9000}},
		"narrow route": {setup: []string{"ip route add 10.8.0.0/16 via 10.0.0.1 mtu 1400"}, node: "10.8.0.1", iface: "eth1",
			want: topology.Path{NextHop: addr("10.0.0.1"), MTU: 1400}},
		"route wider than the link": {setup: []string{"ip route add 10.8.0.0/16 via 192.168.32.1 mtu 9000"}, node: "10.8.0.1", iface: "eth0",
			want: topology.Path{NextHop: addr("192.168.32.1"), MTU: 1500}},
		"router with an IPv6 address": {
			setup: []string{"sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0", "ip route add 10.8.0.0/16 via inet6 fe80::1 dev eth0"},
			node:  "10.8.0.1", iface: "eth0", want: topology.Path{NextHop: addr("fe80::1"), MTU: 1500},
		},
		"another table": {setup: []string{"ip route add 10.9.0.0/16 via 10.0.0.1 table 100", "ip rule add to 10.9.0.0/16 lookup 100"},
			node: "10.9.0.1", iface: "eth1", want: topology.Path{NextHop: addr("10.0.0.1"), MTU: 9000}},
		"by a TUN device": {setup: []string{"ip tuntap add tun0 mode tun", "ip link set tun0 up", "ip route add 10.9.0.0/16 dev tun0"},
			node: "10.9.0.1", iface: "tun0", want: topology.Path{NextHop: addr("10.9.0.1"), MTU: 1500}},
		"itself":      {node: "192.168.32.245", err: "192.168.32.245 is an address of this node itself"},
		"loopback":    {node: "127.0.0.1", err: "127.0.0.1 is an address of this node itself"},
		"broadcast":   {node: "192.168.32.255", err: "192.168.32.255 is not the address of a node: its route is of type 3"},
		"multicast":   {setup: []string{"ip route add 224.0.0.0/4 dev eth0"}, node: "224.0.0.9", err: "224.0.0.9 is not the address of a node: its route is of type 5"},
		"unreachable": {node: "8.8.8.8", err: "look up route to 8.8.8.8: network is unreachable"},
		"blackhole": {setup: []string{"ip route add blackhole 10.10.0.0/16"}, node: "10.10.0.1",
			err: "look up route to 10.10.0.1: invalid argument"},
		"through the overlay": {setup: []string{"ip route add 172.246.0.0/24 dev bpfnet0"}, node: "172.246.0.1",
			err: "the route to 172.246.0.1 leads into the overlay bpfnet0: a node's address must not lie in a container subnet"},
	})
}

func BenchmarkResolver(b *testing.B) {
	nstest.Enter(b)
	nstest.AddVeth(b, "eth0", 1500, "192.168.32.245/24")
	r, err := NewResolver()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	node := netip.MustParseAddr("192.168.32.246")
	for b.Loop() {
		if _, err := r.PathTo(node); err != nil {
			b.Fatal(err)
		}
	}
}
