// SPDX-License-Identifier: Apache-2.0

//go:build root

package underlay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// node enters a namespace with
//
//	eth0     192.168.32.245/24, 192.168.32.9/24; a route to 10.7.0.0/16
//	eth1     169.254.1.1/16, 10.0.0.5/24; jumbo frames
//	eth2     no address
//	bpfnet0  172.245.0.0/32
func node(t *testing.T) {
	t.Helper()
	nstest.Enter(t)
	nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24", "192.168.32.9/24")
	nstest.AddVeth(t, "eth1", 9000, "169.254.1.1/16", "10.0.0.5/24")
	nstest.AddVeth(t, "eth2", 1500)
	nstest.AddVeth(t, "bpfnet0", 1450, "172.245.0.0/32")
	nstest.AddAddr(t, "lo", "10.255.0.1/32")
	nstest.AddRoute(t, "10.7.0.0/16", "192.168.32.1")
}

const thereAre = "(there are eth0 [192.168.32.245 192.168.32.9], eth1 [10.0.0.5 169.254.1.1])"

func TestFind(t *testing.T) {
	addr := netip.MustParseAddr
	for name, tc := range map[string]struct {
		o     Options
		route string // metric and gateway of a default route
		want  string // interface, address, public address
		err   string
	}{
		"default route":            {route: "0 10.0.0.1", want: "eth1 10.0.0.5 10.0.0.5"},
		"no default route":         {err: "there is no default route: name the interface with --iface NAME or --iface-can-reach ADDRESS"},
		"name":                     {o: Options{Iface: []string{"eth0"}}, want: "eth0 192.168.32.245 192.168.32.245"},
		"name wins over default":   {o: Options{Iface: []string{"eth0"}}, route: "0 10.0.0.1", want: "eth0 192.168.32.245 192.168.32.245"},
		"global before link-local": {o: Options{Iface: []string{"eth1"}}, want: "eth1 10.0.0.5 10.0.0.5"},
		"address":                  {o: Options{Iface: []string{"192.168.32.9"}}, want: "eth0 192.168.32.9 192.168.32.9"},
		"no such name":             {o: Options{Iface: []string{"eth7"}}, err: "--iface eth7: no such interface " + thereAre},
		"no such address":          {o: Options{Iface: []string{"1.2.3.4"}}, err: "--iface 1.2.3.4: no interface has this address " + thereAre},
		"name without address":     {o: Options{Iface: []string{"eth2"}}, err: "--iface eth2: eth2 has no IPv4 address " + thereAre},
		"loopback is no uplink":    {o: Options{Iface: []string{"10.255.0.1"}}, err: "--iface 10.255.0.1: no interface has this address " + thereAre},
		"nor is the overlay":       {o: Options{Iface: []string{"bpfnet0"}}, err: "--iface bpfnet0: no such interface " + thereAre},
		"several, the first wins":  {o: Options{Iface: []string{"eth1", "eth0"}}, want: "eth1 10.0.0.5 10.0.0.5"},
		"several, one fits":        {o: Options{Iface: []string{"eth7", "1.2.3.4", "eth0"}}, want: "eth0 192.168.32.245 192.168.32.245"},
		"several, none fits": {o: Options{Iface: []string{"eth7"}, IfaceRegex: []string{"^ens"}},
			err: "--iface eth7: no such interface " + thereAre + "; --iface-regex ^ens: matches no interface " + thereAre},
		"regex of an address":  {o: Options{IfaceRegex: []string{`^192\.168\.32\.9$`}}, want: "eth0 192.168.32.9 192.168.32.9"},
		"regex unanchored":     {o: Options{IfaceRegex: []string{`0\.5`}}, want: "eth1 10.0.0.5 10.0.0.5"},
		"regex of a name":      {o: Options{IfaceRegex: []string{"th1"}}, want: "eth1 10.0.0.5 10.0.0.5"},
		"regex of the overlay": {o: Options{IfaceRegex: []string{`^172\.`}}, err: `--iface-regex ^172\.: matches no interface ` + thereAre},
		"bad regex, then name": {o: Options{IfaceRegex: []string{"(", "eth0"}}, want: "eth0 192.168.32.245 192.168.32.245"},
		"bad regex":            {o: Options{IfaceRegex: []string{"("}}, err: "--iface-regex: error parsing regexp: missing closing ): `(`"},
		"can reach":            {o: Options{CanReach: addr("10.7.1.1")}, want: "eth0 192.168.32.245 192.168.32.245"},
		"name before can reach": {o: Options{Iface: []string{"eth1"}, CanReach: addr("10.7.1.1")},
			want: "eth1 10.0.0.5 10.0.0.5"},
		"can not reach": {o: Options{CanReach: addr("8.8.8.8")},
			err: "--iface-can-reach: look up route to 8.8.8.8: network is unreachable"},
		"can reach itself": {o: Options{CanReach: addr("10.0.0.5")},
			err: "--iface-can-reach: 10.0.0.5 is an address of this node itself"},
		"public IP":               {o: Options{PublicIP: addr("192.168.32.9")}, route: "0 10.0.0.1", want: "eth0 192.168.32.9 192.168.32.9"},
		"public IP and interface": {o: Options{Iface: []string{"eth1"}, PublicIP: addr("203.0.113.7")}, want: "eth1 10.0.0.5 203.0.113.7"},
		"public IP of nobody": {o: Options{PublicIP: addr("1.2.3.4")}, route: "0 10.0.0.1",
			err: "no interface has address 1.2.3.4: use --iface NAME or --public-ip with an address of this node " + thereAre},
	} {
		t.Run(name, func(t *testing.T) {
			node(t)
			if tc.route != "" {
				addDefaultRoute(t, tc.route)
			}
			up, err := Find(tc.o)
			if tc.err != "" {
				if err == nil || err.Error() != "find uplink: "+tc.err || strings.Contains(err.Error(), "\n") {
					t.Errorf("got error\n%v, want\nfind uplink: %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(up.Name, " ", up.Addr, " ", up.PublicIP); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			attrs := nstest.Link(t, up.Name).Attrs()
			got := []any{up.Ifindex, up.MTU, up.MAC}
			if diff := cmp.Diff([]any{attrs.Index, attrs.MTU, topology.MAC(attrs.HardwareAddr)}, got); diff != "" {
				t.Errorf("ifindex, MTU, MAC (-want +got):\n%s", diff)
			}
		})
	}
}

func addDefaultRoute(t *testing.T, metricAndGateway string) {
	t.Helper()
	var metric int
	var gateway string
	if _, err := fmt.Sscan(metricAndGateway, &metric, &gateway); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Priority: metric, Gw: netip.MustParseAddr(gateway).AsSlice()}); err != nil {
		t.Fatal(err)
	}
}

func TestFindTakesTheDefaultRouteWithTheLowestMetric(t *testing.T) {
	node(t)
	addDefaultRoute(t, "200 10.0.0.1")
	addDefaultRoute(t, "100 192.168.32.1")
	up, err := Find(Options{})
	if err != nil || up.Name != "eth0" {
		t.Errorf("got %s, %v, want eth0", up.Name, err)
	}
}

func TestFindTakesTheFirstHopOfAMultipathRoute(t *testing.T) {
	node(t)
	hops := []*netlink.NexthopInfo{
		{LinkIndex: nstest.Link(t, "eth1").Attrs().Index, Gw: netip.MustParseAddr("10.0.0.1").AsSlice()},
		{LinkIndex: nstest.Link(t, "eth0").Attrs().Index, Gw: netip.MustParseAddr("192.168.32.1").AsSlice()},
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: rtnl.IPNet(netip.MustParsePrefix("0.0.0.0/0")), MultiPath: hops}); err != nil {
		t.Fatal(err)
	}
	up, err := Find(Options{})
	if err != nil || up.Name != "eth1" {
		t.Errorf("got %s, %v, want eth1", up.Name, err)
	}
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(netlink.Link) error
		want   string
	}{
		"as it was": {func(netlink.Link) error { return nil }, "<nil>"},
		"down":      {netlink.LinkSetDown, "uplink eth1 is down: set it up"},
		"gone":      {netlink.LinkDel, "uplink eth1 is gone"},
		"without its address": {func(l netlink.Link) error {
			return netlink.AddrDel(l, &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix("10.0.0.5/24"))})
		}, "uplink eth1 has lost its address 10.0.0.5: give it one"},
	} {
		t.Run(name, func(t *testing.T) {
			node(t)
			up, err := Find(Options{Iface: []string{"eth1"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.change(nstest.Link(t, "eth1")); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(up.Check()); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
