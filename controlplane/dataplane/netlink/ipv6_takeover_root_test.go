// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// flannelLeft6 makes what flanneld 0.28.4 leaves behind in a vxlan network of IPv6 with two peers:
// host 2, and host 3 which leases no more.
func flannelLeft6(t *testing.T) {
	t.Helper()
	for _, c := range []string{
		"ip link add flannel-v6.1 address c6:06:00:00:00:01 mtu 1430 type vxlan id 1 dev eth0 local 2001:db8:32::245 dstport 8472 nolearning",
		"ip addr add 2001:db8:42:1::/128 dev flannel-v6.1",
		"ip link set flannel-v6.1 up",
		"bridge fdb append c6:06:00:00:00:02 dev flannel-v6.1 dst 2001:db8:32::246 self permanent",
		"ip neigh add 2001:db8:42:2:: lladdr c6:06:00:00:00:02 dev flannel-v6.1 nud permanent",
		"ip route add 2001:db8:42:2::/64 via 2001:db8:42:2:: dev flannel-v6.1 onlink",
		"bridge fdb append c6:06:00:00:00:03 dev flannel-v6.1 dst 2001:db8:32::247 self permanent",
		"ip neigh add 2001:db8:42:3:: lladdr c6:06:00:00:00:03 dev flannel-v6.1 nud permanent",
		"ip route add 2001:db8:42:3::/64 via 2001:db8:42:3:: dev flannel-v6.1 onlink",
	} {
		ip(t, strings.Fields(c)...)
	}
}

// flanneld's devices become ours while they are up, each for itself, and go back with routes that
// flanneld's own take the place of.
func TestTakeOver6AndHandOver(t *testing.T) {
	renamesLive(t)
	self4, s := host1v6(t, topology.EncapVXLAN)
	flannelLeft(t, "nolearning")
	flannelLeft6(t)
	before := nstest.Link(t, "flannel-v6.1").Attrs()
	s.VTEP.MAC = macOf(before.HardwareAddr)
	dev4, dev := ensure(t, self4), ensure(t, s)
	if want := (Device{Ifindex: before.Index, Name: Overlay6Name, MAC: s.VTEP.MAC}); dev != want || dev4.Name != OverlayName {
		t.Errorf("devices %+v and %+v, want %+v", dev4, dev, want)
	}
	if got := ip(t, "ip", "route", "get", "2001:db8:42:2::2"); !strings.Contains(got[0], "dev bpfnet0-v6") {
		t.Errorf("before Apply the kernel takes %s", got[0])
	}
	state := topology.State{Self: s, Peers: []topology.Peer{peer6(2, topology.EncapVXLAN, s.Uplink), peer6(4, topology.EncapNone, s.Uplink)}}
	state.Peers[0].Path.MTU = 1400
	apply(t, state)
	const vxlan, direct = "2001:db8:42:2::/64 via 2001:db8:42:2:: dev %s metric %d onlink mtu 1330 pref medium",
		"2001:db8:42:4::/64 via 2001:db8:32::248 dev eth0 metric %d onlink pref medium"
	want := map[string][]string{
		"routes":     {fmt.Sprintf(vxlan, Overlay6Name, 98), fmt.Sprintf(direct, 98)},
		"neighbours": {"2001:db8:42:2:: lladdr c6:06:00:00:00:02 PERMANENT"},
		"fdb":        {"c6:06:00:00:00:02 dst 2001:db8:32::246 self permanent"},
	}
	if diff := cmp.Diff(want, shown6(t)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if got := ip(t, "ip", "-6", "route", "show", "proto", "boot"); len(got) > 0 {
		t.Errorf("routes of flanneld's are left: %q", got)
	}
	for range 2 {
		if err := HandOver(); err != nil {
			t.Fatal(err)
		}
	}
	if got := nstest.Link(t, "flannel-v6.1").Attrs().Index; got != dev.Ifindex {
		t.Errorf("flannel-v6.1 is device %d, want %d", got, dev.Ifindex)
	}
	if nstest.Link(t, "flannel.1").Attrs().Index != dev4.Ifindex {
		t.Error("flannel.1 is another device")
	}
	if diff := cmp.Diff([]string{fmt.Sprintf(vxlan, "flannel-v6.1", 1024), fmt.Sprintf(direct, 1024)}, shown6(t)["routes"]); diff != "" {
		t.Errorf("routes handed over (-want +got):\n%s", diff)
	}
	if got := ensure(t, s); got != dev {
		t.Errorf("taken back, the device is %+v, want %+v", got, dev)
	}
	apply(t, state)
	if diff := cmp.Diff(want, shown6(t)); diff != "" {
		t.Errorf("tables, taken back (-want +got):\n%s", diff)
	}
}

func TestTakeOver6DirectRoutes(t *testing.T) {
	_, s := host1v6(t, topology.EncapNone)
	dev := ensure(t, s)
	nstest.AddRoute(t, "2001:db8:42:2::/64", "2001:db8:32::246")
	nstest.AddRoute(t, "2001:db8:42:3::/64", "2001:db8:32::247")
	state := topology.State{Network: netip.MustParsePrefix("2001:db8:42::/48"), Self: s, Peers: []topology.Peer{peer6(2, topology.EncapNone, s.Uplink)}}
	problems, err := new(View).Apply(state, dev)
	if err != nil {
		t.Fatal(err)
	}
	want := []topology.Problem{{Key: "2001:db8:42:3::/64", Text: "is routed via 2001:db8:32::247 though no lease is there: " +
		`if flanneld left it, or nobody needs it, run "ip route del 2001:db8:42:3::/64 via 2001:db8:32::247"`}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	state.Peers = nil
	if _, err := new(View).Apply(state, dev); err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(ip(t, "ip", "-6", "route", "show"), func(line string) bool { return !strings.Contains(line, " via ") })
	if diff := cmp.Diff([]string{"2001:db8:42:3::/64 via 2001:db8:32::247 dev eth0 metric 1024 pref medium"}, got); diff != "" {
		t.Errorf("routes once the peer has gone (-want +got):\n%s", diff)
	}
}
