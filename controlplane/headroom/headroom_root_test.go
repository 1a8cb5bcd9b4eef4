// SPDX-License-Identifier: Apache-2.0

//go:build root

package headroom

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/test/nstest"
)

func ip(t *testing.T, command string, args ...any) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(fmt.Sprintf(command, args...))...).CombinedOutput(); err != nil {
		t.Fatalf("ip "+command+": %v: %s", append(args, err, out)...)
	}
}

// addBridge makes a bridge with a container's link as its only port.
func addBridge(t *testing.T, bridge, container string) (ifindex int) {
	t.Helper()
	ip(t, "link add %s up type bridge", bridge)
	nstest.AddVeth(t, container, 1450)
	ip(t, "link set %s master %s", container, bridge)
	return nstest.Link(t, bridge).Attrs().Index
}

// ports are the names of a bridge's ports.
func ports(t *testing.T, bridge string) (names []string) {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Attrs().MasterIndex == nstest.Link(t, bridge).Attrs().Index {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}

func ensure(t *testing.T, changed bool, bridges ...int) {
	t.Helper()
	got, err := Ensure(bridges...)
	if err != nil || got != changed {
		t.Errorf("bridges %v: changed %t, error %v; want changed %t", bridges, got, err, changed)
	}
}

// TestEnsure: bridges get the device and lose it, and are otherwise as they were.
func TestEnsure(t *testing.T) {
	nstest.Enter(t)
	indexes := map[string]int{"br1": addBridge(t, "br1", "c1"), "br2": addBridge(t, "br2", "c2")}
	before := map[string]*netlink.LinkAttrs{}
	for bridge := range indexes {
		before[bridge] = nstest.Link(t, bridge).Attrs()
	}
	for _, step := range []struct {
		bridges []string
		changed bool
	}{
		{[]string{"br1"}, true},
		{[]string{"br1"}, false},
		{[]string{"br1", "br2"}, true},
		{[]string{"br2", "br1"}, false},
		{[]string{"br2"}, true},
		{nil, true},
		{nil, false},
	} {
		var wanted []int
		for _, bridge := range step.bridges {
			wanted = append(wanted, indexes[bridge])
		}
		ensure(t, step.changed, wanted...)
		for bridge, index := range indexes {
			want := []string{"c" + bridge[2:]}
			if slices.Contains(step.bridges, bridge) {
				want = append([]string{name(index)}, want...)
				checkPort(t, name(index))
			}
			if got := ports(t, bridge); !slices.Equal(got, want) {
				t.Errorf("%v: ports of %s are %q, want %q", step.bridges, bridge, got, want)
			}
			was, is := before[bridge], nstest.Link(t, bridge).Attrs()
			if is.MTU != was.MTU || is.HardwareAddr.String() != was.HardwareAddr.String() {
				t.Errorf("%v: %s has MTU %d, MAC %s; had %d, %s", step.bridges, bridge, is.MTU, is.HardwareAddr, was.MTU, was.HardwareAddr)
			}
		}
	}
}

// checkPort: nothing goes through it, nor would if it were up.
func checkPort(t *testing.T, device string) {
	t.Helper()
	l := nstest.Link(t, device)
	if l.Attrs().Flags&net.FlagUp != 0 {
		t.Errorf("%s is up", device)
	}
	out, err := exec.Command("bridge", "-d", "link", "show", "dev", device).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"state disabled", "learning off", " flood off", "mcast_flood off", "bcast_flood off", "isolated on"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is not %s: %s", device, want, out)
		}
	}
}

// TestFollows: the bridge's MTU is that of its other ports, whatever becomes of them.
func TestFollows(t *testing.T) {
	nstest.Enter(t)
	br := addBridge(t, "br1", "c1")
	ensure(t, true, br)
	for _, mtu := range []int{1400, 1450, 9000, 1500} {
		ip(t, "link set c1 mtu %d", mtu)
		if got := nstest.Link(t, "br1").Attrs().MTU; got != mtu {
			t.Errorf("the bridge's MTU is %d, its container's %d", got, mtu)
		}
		ensure(t, false, br)
	}
	ip(t, "link del br1") // which leaves the device
	ensure(t, true)
	if err := Cleanup(); err != nil {
		t.Error(err)
	}
	if all, err := netlink.LinkList(); err != nil || slices.ContainsFunc(all, func(l netlink.Link) bool { return l.Type() == "vxlan" }) {
		t.Errorf("left: %v, %v", all, err)
	}
}

// TestRepairs: what somebody else has done to the device does not stay.
func TestRepairs(t *testing.T) {
	nstest.Enter(t)
	br := addBridge(t, "br1", "c1")
	ip(t, "link add br2 type bridge")
	ensure(t, true, br)
	for _, change := range []string{"up", "mtu 1400", "nomaster", "master br2", "address 02:00:00:00:00:01"} {
		ip(t, "link set %s %s", name(br), change)
		ensure(t, true, br)
		if got, want := ports(t, "br1"), []string{name(br), "c1"}; !slices.Equal(got, want) {
			t.Errorf("%s: ports are %q, want %q", change, got, want)
		}
		checkPort(t, name(br))
		ensure(t, false, br)
	}
}

// TestForeign: a device of somebody else's is no device of ours, whatever its name.
func TestForeign(t *testing.T) {
	nstest.Enter(t)
	br := addBridge(t, "br1", "c1")
	ip(t, "link add %s type vxlan id 1 dstport 4789", name(br))
	if _, err := Ensure(br); err == nil || !strings.HasPrefix(err.Error(), "add headroom device "+name(br)) {
		t.Errorf("error %v", err)
	}
	ensure(t, false)
	if got := nstest.Link(t, name(br)).(*netlink.Vxlan).Port; got != 4789 {
		t.Errorf("it is another now, with port %d", got)
	}
}
