// SPDX-License-Identifier: Apache-2.0

// Package nstest gives a test a network namespace, or a CPU, of its own. Nothing of it
// outlives the test, killed or not: the namespace has no name and no mount.
package nstest

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

// Enter moves the calling test into a new network namespace with lo up, and
// back when the test ends. The test's goroutine stays on one thread until then;
// sockets that other goroutines open are not in the namespace.
func Enter(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatalf("get network namespace: %v", err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("create network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() {
		_ = ns.Close()
		if err := netns.Set(home); err != nil {
			t.Errorf("return to network namespace: %v", err)
			return // still locked: the thread ends with its goroutine
		}
		_ = home.Close()
		runtime.UnlockOSThread()
	})
	SetUp(t, "lo")
}

// AddVeth makes a veth of that name with the given MTU and addresses, up and
// with carrier: its other end, named "peer-" + name, is up in the same namespace.
// It has IPv6 only if an address of it is given, and then no link-local one.
// It returns the ifindex.
func AddVeth(t testing.TB, name string, mtu int, addrs ...string) int {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer-" + name}); err != nil {
		t.Fatalf("add veth %s: %v", name, err)
	}
	setting := "disable_ipv6"
	if slices.ContainsFunc(addrs, func(a string) bool { return netip.MustParsePrefix(a).Addr().Is6() }) {
		setting = "addr_gen_mode" // 1: IN6_ADDR_GEN_MODE_NONE
	}
	silence(t, "peer-"+name, "disable_ipv6")
	silence(t, name, setting)
	for _, end := range []string{"peer-" + name, name} {
		SetUp(t, end)
	}
	for _, a := range addrs {
		AddAddr(t, name, a)
	}
	return Link(t, name).Attrs().Index
}

// silence keeps IPv6's announcements, which come seconds later, out of the test.
func silence(t testing.TB, name, setting string) {
	t.Helper()
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/"+setting, []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// SetUp sets a link up.
func SetUp(t testing.TB, name string) {
	t.Helper()
	if err := netlink.LinkSetUp(Link(t, name)); err != nil {
		t.Fatalf("set %s up: %v", name, err)
	}
}

// AddAddr adds an address, "192.168.32.245/24", to a link; one of IPv6 at once,
// without duplicate address detection.
func AddAddr(t testing.TB, name, addr string) {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(Link(t, name), a); err != nil {
		t.Fatalf("add %s to %s: %v", addr, name, err)
	}
}

// AddRoute adds a route to dst, "0.0.0.0/0", by way of gateway.
func AddRoute(t testing.TB, dst, gateway string) {
	t.Helper()
	p := netip.MustParsePrefix(dst)
	r := netlink.Route{
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Gw:  net.ParseIP(gateway),
	}
	if err := netlink.RouteAdd(&r); err != nil {
		t.Fatalf("add route to %s via %s: %v", dst, gateway, err)
	}
}

// Link returns the link of that name, which has to exist.
func Link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("get link %s: %v", name, err)
	}
	return l
}

// Pin keeps the calling goroutine to its end on one of the cores that it may run on, by their
// order and round again, and returns that CPU's number.
func Pin(t testing.TB, nth int) (cpu int) {
	t.Helper()
	cores, err := traffic.Cores()
	if err != nil {
		t.Error(err)
		return 0
	}
	cpu = cores[nth%len(cores)]
	if err := traffic.Pin(cpu); err != nil {
		t.Error(err)
	}
	return cpu
}
