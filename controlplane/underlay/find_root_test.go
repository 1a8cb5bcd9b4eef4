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
		"no name, as of an unset variable":  {o: Options{Iface: []string{""}}, route: "0 10.0.0.1", want: "eth1 10.0.0.5 10.0.0.5"},
		"no regex, as of an unset variable": {o: Options{IfaceRegex: []string{""}}, route: "0 10.0.0.1", want: "eth1 10.0.0.5 10.0.0.5"},
		"no name and no default route": {o: Options{Iface: []string{""}},
			err: "there is no default route: name the interface with --iface NAME or --iface-can-reach ADDRESS"},
		"regex of several addresses":       {o: Options{IfaceRegex: []string{`^192\.`}}, want: "eth0 192.168.32.245 192.168.32.245"},
		"address before name in one regex": {o: Options{IfaceRegex: []string{"eth0|^10\\.0"}}, want: "eth1 10.0.0.5 10.0.0.5"},
		"iface before regex":               {o: Options{IfaceRegex: []string{"eth0"}, Iface: []string{"eth1"}}, want: "eth1 10.0.0.5 10.0.0.5"},
		"regex with a comma":               {o: Options{IfaceRegex: []string{`^192(\.\d{1,3}){3}$`}}, want: "eth0 192.168.32.245 192.168.32.245"},
		"regex before can reach":           {o: Options{IfaceRegex: []string{"eth1"}, CanReach: addr("10.7.1.1")}, want: "eth1 10.0.0.5 10.0.0.5"},
		"link-local by its address":        {o: Options{Iface: []string{"169.254.1.1"}}, want: "eth1 169.254.1.1 169.254.1.1"},
		"can reach by the default route":   {o: Options{CanReach: addr("8.8.8.8")}, route: "0 10.0.0.1", want: "eth1 10.0.0.5 10.0.0.5"},
		"can reach an IPv6 address": {o: Options{CanReach: addr("2001:db8::1")},
			err: "--iface-can-reach: look up route to 2001:db8::1: network is unreachable"},
		"public IP and can reach": {o: Options{CanReach: addr("10.7.1.1"), PublicIP: addr("203.0.113.7")},
			want: "eth0 192.168.32.245 203.0.113.7"},
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
			tc.o.IPv4 = true
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

// TestFindPrefers checks which of an interface's addresses is taken, as flannel sorts them.
func TestFindPrefers(t *testing.T) {
	for name, tc := range map[string]struct {
		addrs string // for `ip addr add`, in this order
		want  string
	}{
		"the first":                          {"10.1.0.9/24|10.1.0.5/24", "10.1.0.9"},
		"a static one before DHCP's":         {"10.1.0.9/24 valid_lft 3600 preferred_lft 3600|10.1.0.5/24", "10.1.0.5"},
		"DHCP's before a link-local one":     {"169.254.7.7/16|10.1.0.9/24 valid_lft 3600 preferred_lft 3600", "10.1.0.9"},
		"none that is deprecated":            {"10.1.0.9/24 valid_lft 3600 preferred_lft 0|10.1.0.5/24 valid_lft 3600 preferred_lft 3600", "10.1.0.5"},
		"a link-local one, if it is alone":   {"169.254.7.7/16", "169.254.7.7"},
		"of another network, the first":      {"10.2.0.1/24|10.1.0.5/24", "10.2.0.1"},
		"of a point-to-point link, the near": {"10.1.0.5 peer 10.1.0.6", "10.1.0.5"},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Enter(t)
			nstest.AddVeth(t, "eth0", 1500)
			for a := range strings.SplitSeq(tc.addrs, "|") {
				run(t, "ip addr add dev eth0 "+a)
			}
			for _, o := range []Options{{Iface: []string{"eth0"}}, {IfaceRegex: []string{"eth0"}}} {
				o.IPv4 = true
				if up, err := Find(o); err != nil || up.Addr.String() != tc.want {
					t.Errorf("%+v: got %s, %v, want %s", o, up.Addr, err, tc.want)
				}
			}
		})
	}
}

// TestFindTakesWhatIsNamed: a deprecated address, and an interface that is down, for it may come up.
func TestFindTakesWhatIsNamed(t *testing.T) {
	nstest.Enter(t)
	nstest.AddVeth(t, "eth0", 1500, "10.1.0.5/24")
	run(t, "ip addr add dev eth0 10.1.0.9/24 valid_lft 3600 preferred_lft 0")
	run(t, "ip link set eth0 down")
	up, err := Find(Options{Iface: []string{"10.1.0.9"}})
	if err != nil || up.Addr.String() != "10.1.0.9" {
		t.Errorf("got %s, %v", up.Addr, err)
	}
	if got := checked(up); got != "uplink eth0 is down: set it up" {
		t.Error(got)
	}
}

// TestFindPassesFlannelsDevices, which carry the container network.
func TestFindPassesFlannelsDevices(t *testing.T) {
	nstest.Enter(t)
	for i, name := range []string{"flannel.1", "flannel0", "flannel-wg", "eth0"} {
		nstest.AddVeth(t, name, 1450, fmt.Sprintf("10.5.%d.0/32", i))
	}
	if up, err := Find(Options{IfaceRegex: []string{`^10\.5\.`}}); err != nil || up.Name != "eth0" {
		t.Errorf("got %s, %v, want eth0", up.Name, err)
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

func checked(up Uplink) string {
	_, err := up.Check()
	return fmt.Sprint(err)
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
			if got := checked(up); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
