// SPDX-License-Identifier: Apache-2.0

//go:build root

package node

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	kernel "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// numbered is a lease of its own node, behind a router.
func numbered(n int) store.Lease {
	hi, lo := byte(n>>8), byte(n)
	return store.Lease{
		Key: fmt.Sprintf("%05d", n), Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 246, byte(n >> 4), lo << 4}), 28),
		PublicIP: netip.AddrFrom4([4]byte{11, 0, hi, lo}), Backend: topology.EncapVXLAN,
		VNI: 1, MAC: topology.MAC{2, 0, 0, 1, hi, lo}, CreateRevision: 1, ModRevision: 1,
	}
}

// reached tells whether the maps, and the kernel, have a route to a lease's subnet.
func reached(t *testing.T, set *maps.Set, l store.Lease) (byMaps, byKernel bool) {
	t.Helper()
	host, err := set.Routes.Lookup(l.Subnet.Addr().Next())
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: rtnl.IPNet(l.Subnet), Protocol: kernel.RouteProtocol},
		netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		t.Fatal(err)
	}
	return host != 0, len(routes) > 0
}

// TestKernelViewInSteps: in a large cluster a node serves by the maps when the kernel's
// tables have but their first peers, and who comes then is in both before the rest.
func TestKernelViewInSteps(t *testing.T) {
	l, _, set := servedLoop(t)
	if err := netlink.RouteAdd(&netlink.Route{Gw: []byte{192, 168, 32, 1}}); err != nil {
		t.Fatal(err)
	}
	const n = 2*kernelStep + 10
	all := store.Update{Full: true, Revision: 2}
	for i := range n {
		all.Put = append(all.Put, numbered(i))
	}
	pass := func(u store.Update) {
		t.Helper()
		if err := l.update(u); err != nil {
			t.Fatal(err)
		}
		if l.nothingNew() != nil {
			t.Error("goes on before it applies what is new")
		}
		<-l.wake
		if failed, err := l.pass(false); failed || err != nil {
			t.Fatalf("failed %t, error %v: %v", failed, err, l.reporter.problems())
		}
	}
	is := func(what string, lease store.Lease, maps, routed bool) {
		t.Helper()
		if byMaps, byKernel := reached(t, set, lease); byMaps != maps || byKernel != routed {
			t.Errorf("%s is in the maps: %t, in the kernel: %t; want %t, %t", what, byMaps, byKernel, maps, routed)
		}
	}
	pass(all)
	is("the first", numbered(0), true, true)
	is("the last", numbered(n-1), true, false)
	if v := l.status.get().KernelView; !l.isSynced() || v == nil || *v != (KernelView{kernelStep, n}) {
		t.Errorf("serves: %t, kernel view %+v", l.isSynced(), v)
	}
	pass(store.Update{Revision: 3, Put: []store.Lease{numbered(n)}, Deleted: []string{numbered(0).Key, numbered(n - 1).Key}})
	is("who came", numbered(n), true, true)
	is("who went", numbered(0), false, false)
	is("who went unwritten", numbered(n-1), false, false)
	is("the last but one", numbered(n-2), true, false)
	for l.unwritten > 0 {
		if l.stranded = true; l.nothingNew() != nil {
			t.Error("goes on without an uplink")
		}
		if l.stranded = false; l.nothingNew() == nil {
			t.Fatal("does not go on")
		}
		if err := l.advance(); err != nil {
			t.Fatal(err)
		}
	}
	is("the last but one", numbered(n-2), true, true)
	is("who went unwritten", numbered(n-1), false, false)
	if v := l.status.get().KernelView; v != nil || l.nothingNew() != nil {
		t.Errorf("in the end the kernel view is %+v", v)
	}
}

// TestErrorLastsThroughTheSteps: what fails beside the kernel's tables is said once, however
// many steps those take, and is over when it has been mended.
func TestErrorLastsThroughTheSteps(t *testing.T) {
	l, on, _ := servedLoop(t)
	if err := netlink.RouteAdd(&netlink.Route{Gw: []byte{192, 168, 32, 1}}); err != nil {
		t.Fatal(err)
	}
	log, lines := logged()
	l.reporter.log = log
	on.fail[l.first().overlay.Ifindex] = errors.New("no room")
	all := store.Update{Full: true, Revision: 2}
	for i := range 2*kernelStep + 10 {
		all.Put = append(all.Put, numbered(i))
	}
	if err := l.update(all); err != nil {
		t.Fatal(err)
	}
	if failed, err := l.pass(false); !failed || err != nil {
		t.Fatalf("failed %t, error %v", failed, err)
	}
	steps := 0
	for ; l.unwritten > 0; steps++ {
		if err := l.advance(); err == nil {
			t.Error("a step of the kernel's tables ends what it has not mended")
		}
	}
	const line = `level=WARN msg="no room" source=dataplane`
	if checkLines(t, "after the steps", lines(), line); steps != 2 {
		t.Errorf("%d steps after the first, want 2", steps)
	}
	clear(on.fail)
	if failed, err := l.pass(true); failed || err != nil {
		t.Fatalf("mended: failed %t, error %v", failed, err)
	}
	checkLines(t, "mended", lines(), "level=INFO msg=mended source=dataplane")
}

// TestFamiliesInSteps: while one family's peers are written to the kernel's tables, the other,
// which is through, rests, and what it could not write is tried with the next pass.
func TestFamiliesInSteps(t *testing.T) {
	nstest.Enter(t)
	const second = "192.168.32.99" // of this node: no next hop
	uplink := nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24", second+"/24", "2001:db8::245/64")
	l, _ := testLoop(t, `{"EnableIPv6":true,"Network":"172.244.0.0/14","IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}`)
	l.kind = Netlink
	peer := func(subnet netip.Prefix, node string) topology.Peer {
		hop := netip.MustParseAddr(node)
		return topology.Peer{
			Key: subnet.String(), Subnet: subnet, Node: hop, Encap: topology.EncapNone,
			Path: topology.Path{Ifindex: uplink, NextHop: hop, MTU: 1500},
		}
	}
	self := func(subnet, node string) topology.Self {
		return topology.Self{
			Subnet: netip.MustParsePrefix(subnet), Node: netip.MustParseAddr(node), Uplink: uplink, Encap: topology.EncapNone, MTU: 1500,
		}
	}
	v4, v6 := l.families[0], l.families[1]
	v4.state = topology.State{
		Self:  self("172.245.0.0/24", "192.168.32.245"),
		Peers: []topology.Peer{peer(netip.MustParsePrefix("172.246.0.0/24"), second)},
	}
	v6.state.Self = self("fc00:0:0:1::/64", "2001:db8::245")
	for i := range 2*kernelStep + 10 {
		subnet := netip.AddrFrom16([16]byte{0: 0xfc, 6: byte((i + 16) >> 8), 7: byte(i + 16)})
		v6.state.Peers = append(v6.state.Peers, peer(netip.PrefixFrom(subnet, 64), "2001:db8::246"))
	}
	v4.lost, v6.lost = true, true // they stay as they are
	build := func() {
		t.Helper()
		if err := l.build(make([]topology.Input, 2)); err != nil {
			t.Fatal(err)
		}
	}
	step := func(unwritten, failed int) {
		t.Helper()
		problems, err := l.advanceKernel(l.states)
		if err != nil || l.unwritten != unwritten || len(problems) != failed {
			t.Errorf("%d unwritten, problems %v, error %v; want %d, %d of them", l.unwritten, problems, err, unwritten, failed)
		}
	}
	build()
	step(kernelStep+10, 1)
	if err := netlink.AddrDel(nstest.Link(t, "eth0"), &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix(second + "/24"))}); err != nil {
		t.Fatal(err)
	}
	step(10, 1)
	step(0, 1)
	build()
	step(0, 0)
}
