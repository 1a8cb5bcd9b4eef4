// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/features"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// flannelLeft makes what flanneld 0.28.4 leaves behind in a vxlan network with
// two peers: host 2, and host 3 which leases no more.
func flannelLeft(t *testing.T, options string) {
	t.Helper()
	for _, c := range []string{
		"ip link add flannel.1 address c6:00:00:00:00:01 type vxlan id 1 dev eth0 local 192.168.32.245 dstport 8472 " + options,
		"ip link set flannel.1 mtu 1450 up",
		"ip addr add 172.245.0.0/32 dev flannel.1",
		"bridge fdb append c6:00:00:00:00:02 dev flannel.1 dst 192.168.32.246 self permanent",
		"ip neigh add 172.246.0.0 lladdr c6:00:00:00:00:02 dev flannel.1 nud permanent",
		"ip route add 172.246.0.0/24 via 172.246.0.0 dev flannel.1 onlink",
		"bridge fdb append c6:00:00:00:00:03 dev flannel.1 dst 192.168.32.247 self permanent",
		"ip neigh add 172.247.0.0 lladdr c6:00:00:00:00:03 dev flannel.1 nud permanent",
		"ip route add 172.247.0.0/24 via 172.247.0.0 dev flannel.1 onlink",
	} {
		ip(t, strings.Fields(c)...)
	}
}

// renamesLive skips a test on kernels that give a device another name only while
// it is down: those before 6.2.
func renamesLive(t *testing.T) {
	t.Helper()
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	if version < 6<<16|2<<8 {
		t.Skip("this kernel renames no device that is up")
	}
}

// flanneld's device becomes ours while it is up, and what is on it is gone
// through: what a peer needs stays without a moment's gap, the rest goes.
func TestTakeOverFromFlannel(t *testing.T) {
	renamesLive(t)
	s := host1(t, topology.EncapVXLAN)
	flannelLeft(t, "nolearning")
	before := nstest.Link(t, "flannel.1").Attrs()
	s.VTEP.MAC = macOf(before.HardwareAddr)
	dev := ensure(t, s)
	if want := (Device{Ifindex: before.Index, Name: OverlayName, MAC: s.VTEP.MAC}); dev != want {
		t.Errorf("device %+v, want %+v", dev, want)
	}
	if got := ip(t, "ip", "route", "get", "172.246.0.2"); !strings.Contains(got[0], "dev bpfnet0") {
		t.Errorf("before Apply the kernel takes %s", got[0])
	}
	state := topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapVXLAN, s.Uplink)}}
	seen := events(t, func() { apply(t, state) })
	if diff := cmp.Diff([]string{"new route", "del route", "del route", "failed neigh", "del neigh", "del fdb"}, seen); diff != "" {
		t.Errorf("announcements (-want +got):\n%s", diff)
	}
	want := map[string][]string{
		"routes":     {"172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink"},
		"neighbours": {"172.246.0.0 lladdr c6:00:00:00:00:02 PERMANENT"},
		"fdb":        {"c6:00:00:00:00:02 dst 192.168.32.246 self permanent"},
	}
	if diff := cmp.Diff(want, shown(t)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if got := ip(t, "ip", "route", "show", "dev", "bpfnet0"); len(got) != 1 {
		t.Errorf("routes of others are left: %q", got)
	}
}

// A device of flanneld's that is otherwise made than ours is replaced, its MAC kept.
func TestTakeOverReplacesWhatDiffers(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	flannelLeft(t, "learning")
	before := nstest.Link(t, "flannel.1").Attrs()
	s.VTEP.MAC = macOf(before.HardwareAddr)
	dev := ensure(t, s)
	if dev.Ifindex == before.Index || dev.MAC != s.VTEP.MAC {
		t.Errorf("device %+v, want a new one with MAC %s", dev, s.VTEP.MAC)
	}
	if _, err := netlink.LinkByName("flannel.1"); err == nil {
		t.Error("flannel.1 is still there")
	}
}

// Of another VNI or port it is in nobody's way, and not ours.
func TestTakeOverLeavesOthers(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	flannelLeft(t, "nolearning")
	s.Port = 4789
	ensure(t, s)
	if _, err := netlink.LinkByName("flannel.1"); err != nil {
		t.Errorf("flannel.1: %v", err)
	}
}

// flanneld's routes by the nodes themselves look like anybody's. To a peer they
// become ours; those that no lease asks for are told of.
func TestTakeOverDirectRoutes(t *testing.T) {
	for _, encap := range []topology.Encap{topology.EncapNone, topology.EncapVXLAN} {
		t.Run(string(encap), func(t *testing.T) {
			s := host1(t, encap)
			dev := ensure(t, s)
			nstest.AddRoute(t, "172.246.0.0/24", "192.168.32.246")
			nstest.AddRoute(t, "172.247.0.0/24", "192.168.32.247")
			nstest.AddRoute(t, "10.8.0.0/24", "192.168.32.1")
			state := topology.State{Network: netip.MustParsePrefix("172.244.0.0/14"), Self: s,
				Peers: []topology.Peer{peer(2, encap, s.Uplink)}}
			problems, err := new(View).Apply(state, dev)
			if err != nil {
				t.Fatal(err)
			}
			want := []topology.Problem{{Key: "172.247.0.0/24", Text: "is routed via 192.168.32.247 though no lease is there: " +
				`if flanneld left it, or nobody needs it, run "ip route del 172.247.0.0/24 via 192.168.32.247"`}}
			if diff := cmp.Diff(want, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			state.Peers = nil
			if _, err := new(View).Apply(state, dev); err != nil {
				t.Fatal(err)
			}
			left := []string{"172.247.0.0/24 via 192.168.32.247 dev eth0", "10.8.0.0/24 via 192.168.32.1 dev eth0"}
			slices.Sort(left)
			got := slices.DeleteFunc(ip(t, "ip", "route", "show"), func(line string) bool { return !strings.Contains(line, " via ") })
			slices.Sort(got)
			if diff := cmp.Diff(left, got); diff != "" {
				t.Errorf("routes once the peer has gone (-want +got):\n%s", diff)
			}
		})
	}
}

// HandOver is the way back: flanneld finds its device, and every route.
func TestHandOver(t *testing.T) {
	renamesLive(t)
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	apply(t, topology.State{Self: s, Peers: []topology.Peer{
		peer(2, topology.EncapVXLAN, s.Uplink), peer(3, topology.EncapNone, s.Uplink),
	}})
	for range 2 {
		if err := HandOver(); err != nil {
			t.Fatal(err)
		}
	}
	if got := nstest.Link(t, "flannel.1").Attrs().Index; got != dev.Ifindex {
		t.Errorf("flannel.1 is device %d, want %d", got, dev.Ifindex)
	}
	want := []string{
		"172.246.0.0/24 via 172.246.0.0 dev flannel.1 onlink",
		"172.247.0.0/24 via 192.168.32.247 dev eth0 onlink",
	}
	if diff := cmp.Diff(want, ip(t, "ip", "route", "show", "proto", "98")); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if got := ensure(t, s); got != dev {
		t.Errorf("taken back, the device is %+v, want %+v", got, dev)
	}
}

// TestHandOverRemovesCover: a daemon that ends while it writes the kernel's view leaves a cover.
func TestHandOverRemovesCover(t *testing.T) {
	renamesLive(t)
	s := host1(t, topology.EncapVXLAN)
	state := topology.State{Self: s, Peers: manyPeers(10, topology.EncapVXLAN, s.Uplink)}
	var v View
	advance(t, &v, state, ensure(t, s))
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	if got := ip(t, "ip", "route", "show", "proto", "98"); len(got) != someAtATime.Peers {
		t.Errorf("routes:\n%s\nwant those of %d peers", strings.Join(got, "\n"), someAtATime.Peers)
	}
	for _, what := range []string{"route", "neigh"} {
		if got := strings.Join(ip(t, "ip", what), "\n"); strings.Contains(got, coverGateway4.String()) {
			t.Errorf("the cover is left in:\n%s", got)
		}
	}
}

func TestHandOverRemovesWhatFlannelHasNot(t *testing.T) {
	s := host1(t, topology.EncapUDP)
	ensure(t, s)
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(OverlayName); err == nil {
		t.Errorf("%s is still there", OverlayName)
	}
}
