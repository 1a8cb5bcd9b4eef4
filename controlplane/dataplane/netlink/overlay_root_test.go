// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// host1 enters a namespace that is host 1 of the lab and returns what its
// daemon knows of itself.
func host1(t *testing.T, encap topology.Encap) topology.Self {
	t.Helper()
	nstest.Enter(t)
	return topology.Self{
		Subnet: netip.MustParsePrefix("172.245.0.0/24"),
		Node:   netip.MustParseAddr("192.168.32.245"),
		Uplink: nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24"),
		Encap:  encap,
		VNI:    1,
		Port:   8472,
		MTU:    1450,
	}
}

func ensure(t *testing.T, s topology.Self) Device {
	t.Helper()
	dev, err := EnsureOverlay(s, Programs)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func addrsOf(t *testing.T, name string, family int) (got []string) {
	t.Helper()
	addrs, err := netlink.AddrList(nstest.Link(t, name), family)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		got = append(got, a.IPNet.String())
	}
	return got
}

func sysctl(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestOverlayVXLAN(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	dev := ensure(t, s)
	link, ok := nstest.Link(t, OverlayName).(*netlink.Vxlan)
	if !ok {
		t.Fatalf("%s is no vxlan device", OverlayName)
	}
	got := map[string]any{
		"VNI": link.VxlanId, "port": link.Port, "uplink": link.VtepDevIndex, "source": link.SrcAddr.String(),
		"learning": link.Learning, "MTU": link.MTU, "up": link.Flags&net.FlagUp != 0,
		"IPv4": addrsOf(t, OverlayName, unix.AF_INET), "IPv6": addrsOf(t, OverlayName, unix.AF_INET6),
		"MAC given at creation": assignType(t, OverlayName),
		"device":                dev,
	}
	want := map[string]any{
		"VNI": 1, "port": 8472, "uplink": s.Uplink, "source": "192.168.32.245",
		"learning": false, "MTU": 1450, "up": true,
		"IPv4": []string{"172.245.0.0/32"}, "IPv6": []string(nil),
		"MAC given at creation": "3",
		"device":                Device{Ifindex: link.Index, Name: OverlayName, MAC: macOf(link.HardwareAddr)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("overlay (-want +got):\n%s", diff)
	}
	if !unicast(dev.MAC) {
		t.Errorf("MAC %v is not unicast", hardwareAddr(dev.MAC))
	}
}

// assignType is "3", NET_ADDR_SET, where user space chose the MAC; on "1",
// NET_ADDR_RANDOM, udev puts another. /sys shows the namespace of its mounter,
// hence a process with a mount namespace of its own.
func assignType(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("unshare", "--mount", "sh", "-c",
		"mount -t sysfs sysfs /sys && cat /sys/class/net/"+name+"/addr_assign_type").CombinedOutput()
	if err != nil {
		t.Fatalf("read addr_assign_type: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestOverlayIsAdoptedWithoutAWrite(t *testing.T) {
	for _, encap := range []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP, topology.EncapUDP} {
		t.Run(string(encap), func(t *testing.T) {
			s := host1(t, encap)
			first := ensure(t, s)
			var second Device
			seen := events(t, func() { second = ensure(t, s) })
			if len(seen) != 0 {
				t.Errorf("adopting wrote:\n%s", strings.Join(seen, "\n"))
			}
			if diff := cmp.Diff(first, second); diff != "" {
				t.Errorf("device changed (-first +second):\n%s", diff)
			}
		})
	}
}

func TestOverlayFollowsItsDescription(t *testing.T) {
	mac := topology.MAC{0xc6, 1, 2, 3, 4, 5}
	for name, tc := range map[string]struct {
		change   func(*testing.T, *topology.Self)
		replaced bool
		mac      topology.MAC // zero: as before
	}{
		"VNI":    {func(_ *testing.T, s *topology.Self) { s.VNI = 7 }, true, topology.MAC{}},
		"port":   {func(_ *testing.T, s *topology.Self) { s.Port = 4789 }, true, topology.MAC{}},
		"uplink": {func(t *testing.T, s *topology.Self) { s.Uplink = nstest.AddVeth(t, "eth1", 1500) }, true, topology.MAC{}},
		"node": {func(t *testing.T, s *topology.Self) {
			nstest.AddAddr(t, "eth0", "192.168.32.9/24")
			s.Node = netip.MustParseAddr("192.168.32.9")
		}, true, topology.MAC{}},
		"MTU":          {func(_ *testing.T, s *topology.Self) { s.MTU = 1400 }, false, topology.MAC{}},
		"MAC":          {func(_ *testing.T, s *topology.Self) { s.VTEP.MAC = mac }, false, mac},
		"VNI and MAC":  {func(_ *testing.T, s *topology.Self) { s.VNI, s.VTEP.MAC = 7, mac }, true, mac},
		"subnet":       {func(_ *testing.T, s *topology.Self) { s.Subnet = netip.MustParsePrefix("172.247.0.0/24") }, false, topology.MAC{}},
		"to ipip":      {func(_ *testing.T, s *topology.Self) { s.Encap = topology.EncapIPIP }, true, topology.MAC{}},
		"set down":     {func(t *testing.T, _ *topology.Self) { setDown(t, OverlayName) }, false, topology.MAC{}},
		"learning put": {func(t *testing.T, s *topology.Self) { makeLearning(t, s) }, true, topology.MAC{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := host1(t, topology.EncapVXLAN)
			before := ensure(t, s)
			tc.change(t, &s)
			if name == "learning put" {
				before = deviceOf(nstest.Link(t, OverlayName))
			}
			after := ensure(t, s)
			if replaced := after.Ifindex != before.Ifindex; replaced != tc.replaced {
				t.Errorf("replaced is %t, want %t", replaced, tc.replaced)
			}
			want := before.MAC
			if tc.mac != (topology.MAC{}) {
				want = tc.mac
			}
			if after.MAC != want {
				t.Errorf("MAC is %v, want %v", hardwareAddr(after.MAC), hardwareAddr(want))
			}
			link := nstest.Link(t, OverlayName)
			got := []any{link.Attrs().MTU, link.Attrs().Flags&net.FlagUp != 0, addrsOf(t, OverlayName, unix.AF_INET)}
			if diff := cmp.Diff([]any{s.MTU, true, []string{s.Subnet.Addr().String() + "/32"}}, got); diff != "" {
				t.Errorf("MTU, up, addresses (-want +got):\n%s", diff)
			}
			if v, ok := link.(*netlink.Vxlan); ok && (v.VxlanId != int(s.VNI) || v.Port != int(s.Port) || v.Learning) {
				t.Errorf("device is %+v", v)
			}
		})
	}
}

func setDown(t *testing.T, name string) {
	t.Helper()
	if err := netlink.LinkSetDown(nstest.Link(t, name)); err != nil {
		t.Fatal(err)
	}
}

func makeLearning(t *testing.T, s *topology.Self) {
	t.Helper()
	old := nstest.Link(t, OverlayName)
	if err := netlink.LinkDel(old); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = OverlayName, old.Attrs().HardwareAddr
	link := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(s.VNI), Port: int(s.Port), VtepDevIndex: s.Uplink,
		SrcAddr: s.Node.AsSlice(), Learning: true}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
}

func TestOverlayKeepsAddressesOfOthers(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	nstest.AddAddr(t, OverlayName, "10.9.9.1/24")
	nstest.AddAddr(t, OverlayName, "172.250.0.0/32")
	ensure(t, s)
	if diff := cmp.Diff([]string{"172.245.0.0/32", "10.9.9.1/24"}, addrsOf(t, OverlayName, unix.AF_INET)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestOverlayVeth(t *testing.T) {
	s := host1(t, topology.EncapIPIP)
	s.MTU = 1480
	dev := ensure(t, s)
	settle(t)
	if got, want := dev.PeerIfindex, nstest.Link(t, OverlayPeerName).Attrs().Index; got != want {
		t.Errorf("the other end is interface %d, want %d", got, want)
	}
	for _, name := range []string{OverlayName, OverlayPeerName} {
		a := nstest.Link(t, name).Attrs()
		if a.MTU != 1480 || a.RawFlags&unix.IFF_NOARP == 0 || a.OperState != netlink.OperUp {
			t.Errorf("%s: MTU %d, flags %s, state %s", name, a.MTU, a.Flags, a.OperState)
		}
		if got := addrsOf(t, name, unix.AF_INET6); got != nil {
			t.Errorf("%s has IPv6 addresses %v", name, got)
		}
		if st := a.Statistics; st.TxPackets+st.RxPackets != 0 {
			t.Errorf("%s spoke unasked: %d packets sent, %d received", name, st.TxPackets, st.RxPackets)
		}
	}
	if diff := cmp.Diff([]string{"172.245.0.0/32"}, addrsOf(t, OverlayName, unix.AF_INET)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if got := addrsOf(t, OverlayPeerName, unix.AF_INET); got != nil {
		t.Errorf("%s has addresses %v", OverlayPeerName, got)
	}
}

// In udp networks a packet leaves the veth summed and cut; in ipip ones as any veth has it, but for superpackets of SCTP
// and of other tunnels.
func TestOverlayVethOffloads(t *testing.T) {
	s := host1(t, topology.EncapIPIP)
	before := offloads(t, ensure(t, s).Name)
	if len(before) < 10 {
		t.Fatalf("few offloads to begin with: %v", before)
	}
	left := slices.DeleteFunc(offloads(t, OverlayPeerName), func(name string) bool {
		return name == "tx-sctp-segmentation" || strings.HasPrefix(name, "tx-udp_tnl-") ||
			strings.HasPrefix(name, "tx-gre-") || strings.HasPrefix(name, "tx-ipxip")
	})
	if diff := cmp.Diff(left, before); diff != "" {
		t.Errorf("offloads (-want +got):\n%s", diff)
	}
	peer := offloads(t, OverlayPeerName)
	for range 2 {
		s.Encap = topology.EncapUDP
		on := offloads(t, ensure(t, s).Name)
		for _, name := range []string{"tx-checksum-ip-generic", "tx-checksum-sctp", "tx-tcp-segmentation"} {
			if slices.Contains(on, name) || !slices.Contains(before, name) {
				t.Errorf("%s is not off, or was not on", name)
			}
		}
		if diff := cmp.Diff(peer, offloads(t, OverlayPeerName)); diff != "" {
			t.Errorf("offloads of the other end (-want +got):\n%s", diff)
		}
		s.Encap = topology.EncapIPIP
		if diff := cmp.Diff(before, offloads(t, ensure(t, s).Name)); diff != "" {
			t.Errorf("offloads with ipip again (-before +after):\n%s", diff)
		}
	}
}

// offloads are the features of a device that are on.
func offloads(t *testing.T, name string) (on []string) {
	t.Helper()
	features, err := ethtool.Features(name)
	if err != nil {
		t.Fatal(err)
	}
	for feature, active := range features {
		if active {
			on = append(on, feature)
		}
	}
	slices.Sort(on)
	return on
}

// Without a program on bpfnet0 its packets end in the peer: none is forwarded,
// answered or delivered, though the namespace routes.
func TestOverlayVethSwallowsWhatNoProgramTook(t *testing.T) {
	s := host1(t, topology.EncapUDP)
	nstest.AddRoute(t, "0.0.0.0/0", "192.168.32.1")
	if _, err := EnsureForwarding(s); err != nil {
		t.Fatal(err)
	}
	ensure(t, s)
	apply(t, topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapUDP, s.Uplink)}})
	settle(t)
	before := nstest.Link(t, "eth0").Attrs().Statistics.TxPackets
	conn, err := net.Dial("udp", "172.246.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got, want := conn.LocalAddr().(*net.UDPAddr).IP.String(), "172.245.0.0"; got != want {
		t.Errorf("source is %s, want %s", got, want)
	}
	for range 3 {
		if _, err := conn.Write([]byte("lost")); err != nil {
			t.Fatalf("an ICMP error came back: %v", err)
		}
	}
	eventually(t, "the peer got all three", func() bool {
		return nstest.Link(t, OverlayPeerName).Attrs().Statistics.RxPackets == 3
	})
	if got := nstest.Link(t, OverlayName).Attrs().Statistics.RxPackets; got != 0 {
		t.Errorf("%d packets came back through %s", got, OverlayPeerName)
	}
	if got := nstest.Link(t, "eth0").Attrs().Statistics.TxPackets; got != before {
		t.Errorf("%d packets leaked to the uplink", got-before)
	}
}

func TestOverlayHostGWHasNone(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	ensure(t, s)
	s.Encap = topology.EncapNone
	for range 2 {
		dev := ensure(t, s)
		if dev != (Device{}) {
			t.Errorf("got device %+v", dev)
		}
		if err := RemoveOthers(dev); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := netlink.LinkByName(OverlayName); err == nil {
		t.Errorf("%s is still there", OverlayName)
	}
}

func TestOverlayRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*testing.T, *topology.Self)
		want    string
	}{
		"a bridge of that name": {func(t *testing.T, _ *topology.Self) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = OverlayName
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Fatal(err)
			}
		}, "bpfnet0 is a bridge device that bpfnet did not make: rename or remove it"},
		"another holds the VNI": {func(t *testing.T, s *topology.Self) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "vxlan7"
			if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 8472, VtepDevIndex: s.Uplink}); err != nil {
				t.Fatal(err)
			}
		}, `create bpfnet0: device vxlan7 already has VNI 1 on port 8472: stop what made it and run "ip link delete vxlan7", or choose another VNI: file exists`},
		"the peer's name is taken": {func(t *testing.T, s *topology.Self) {
			s.Encap = topology.EncapIPIP
			nstest.AddVeth(t, OverlayPeerName, 1500)
		}, "create bpfnet0: a device bpfnet0p exists that bpfnet did not make: rename or remove it: file exists"},
		"unknown mode": {func(_ *testing.T, s *topology.Self) { s.Encap = "gre" }, `create bpfnet0: unknown encapsulation "gre"`},
		"MTU of jumbo frames on a plain uplink": {func(_ *testing.T, s *topology.Self) { s.MTU = 8950 },
			"set MTU of bpfnet0: 8950 does not fit the uplink, lower MTU in the network's Backend config: invalid argument"},
		"no port": {func(_ *testing.T, s *topology.Self) { s.Port = 0 }, "create bpfnet0: vxlan needs a UDP port"},
	} {
		t.Run(name, func(t *testing.T) {
			s := host1(t, topology.EncapVXLAN)
			tc.prepare(t, &s)
			_, err := EnsureOverlay(s, Programs)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got error %v, want %s", err, tc.want)
			}
		})
	}
}
