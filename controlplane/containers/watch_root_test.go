// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var options = Options{Subnets: []netip.Prefix{subnet}}

// bridged is a node with containers A and B that have spoken.
func bridged(t *testing.T) (n, a, b *space) {
	return bridgedBy(t, fixedMAC)
}

func bridgedBy(t *testing.T, mac net.HardwareAddr) (n, a, b *space) {
	n = newSpace(t)
	n.addBridge("br245", "172.245.0.1/24", mac)
	a = n.addContainer("vethA", "br245", "172.245.0.2/24")
	b = n.addContainer("vethB", "br245", "172.245.0.3/24")
	a.exchange("172.245.0.1")
	b.exchange("172.245.0.1")
	return n, a, b
}

func TestWatchFindsBridgedContainers(t *testing.T) {
	n, a, b := bridged(t)
	before := watchIn(n, options)
	want := []Endpoint{n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245")}
	before.await("containers that start under a running Watch", want...)

	// Known before Watch starts, they are in the first State whole.
	w := watchIn(n, options)
	w.await("containers older than Watch", want...)
	if first := w.all()[0]; !cmp.Equal(want, first.Endpoints, compare...) || len(first.Links) != 2 {
		t.Errorf("first State is %+v, want two links and %v", first, want)
	}

	c := n.addContainer("vethC", "br245", "172.245.0.4/24")
	w.awaitLinks("a new container's link",
		Link{n.index("vethA"), "vethA"}, Link{n.index("vethB"), "vethB"}, Link{n.index("vethC"), "vethC"})
	c.speak("172.245.0.1")
	w.await("a new container's endpoint", append(want, n.endpoint("vethC", c, "172.245.0.4", "br245"))...)

	n.must(n.LinkDel(n.link("vethC")))
	w.await("a container gone", want...)
	w.awaitLinks("a container gone", Link{n.index("vethA"), "vethA"}, Link{n.index("vethB"), "vethB"})
}

func TestWatchFindsRoutedContainers(t *testing.T) {
	n := newSpace(t)
	w := watchIn(n, options)
	c := n.addContainer("vethR", "", "172.245.0.5/32")
	c.must(c.RouteAdd(&netlink.Route{LinkIndex: c.index("eth0"), Scope: netlink.SCOPE_LINK, Dst: ipAddr("0.0.0.0/0").IPNet}))
	n.sysctl("ipv4/conf/vethR/proxy_arp", "1")
	n.routeTo("vethR", "172.245.0.5")
	w.awaitLinks("a veth with a host route", Link{n.index("vethR"), "vethR"})

	n.must(n.AddrAdd(n.link("vethR"), ipAddr("10.0.0.1/32"))) // gives the node a source to ask from
	n.speak("172.245.0.5")
	endpoint := n.endpoint("vethR", c, "172.245.0.5", "vethR")
	w.await("a routed container", endpoint)

	n.down("vethR")
	w.await("its link down")
	w.awaitLinks("its link down, whose routes the kernel flushes without telling")
	n.up("vethR")
	n.routeTo("vethR", "172.245.0.5")
	n.speak("172.245.0.5")
	w.await("its link back", endpoint)

	n.must(n.AddrDel(n.link("vethR"), ipAddr("10.0.0.1/32")))
	w.awaitLinks("the last address off its link, at which the kernel flushes without telling")
	w.await("the last address off its link")
}

// Routes that outlive their source address, or their link's being down, lead to a container all the same.
func TestWatchKeepsRoutesThatTheKernelKeeps(t *testing.T) {
	n := newSpace(t)
	n.addBridge("br245", "172.245.0.1/24", fixedMAC)
	n.addBridge("brOther", "10.9.0.1/24", nil)
	n.must(n.AddrAdd(n.link("brOther"), ipAddr("10.9.0.2/24"))) // a secondary one
	c := n.addContainer("vethR", "", "172.245.0.5/32")
	c.must(c.RouteAdd(&netlink.Route{LinkIndex: c.index("eth0"), Scope: netlink.SCOPE_LINK, Dst: ipAddr("0.0.0.0/0").IPNet}))
	n.sysctl("ipv4/conf/vethR/proxy_arp", "1")
	n.must(n.AddrAdd(n.link("vethR"), ipAddr("10.0.0.1/32")))
	route := hostRouteOf(n.index("vethR"), "172.245.0.5")
	route.Src = net.IPv4(10, 9, 0, 2)
	n.must(n.RouteAdd(route))
	w := watchIn(n, options)
	n.speak("172.245.0.5")
	endpoint := n.endpoint("vethR", c, "172.245.0.5", "vethR")
	w.await("a routed container", endpoint)
	n.must(n.LinkDel(n.link("brOther"))) // in Linux 6.18, say, at which the route stays
	there, err := n.RouteListFiltered(unix.AF_INET, route, netlink.RT_FILTER_DST)
	n.must(err)
	if len(there) > 0 {
		w.settled(n, "its route's source gone with a link", endpoint)
		n.must(n.RouteDel(&there[0]))
	}
	w.await("its route gone")

	route.Src, route.Scope = nil, netlink.SCOPE_HOST // as the CNI plugin ptp has it
	n.must(n.RouteAdd(route))
	n.speak("172.245.0.5")
	w.await("a routed container, scope host", endpoint)
	n.down("vethR")
	w.await("its link down")
	n.up("vethR")
	n.speak("172.245.0.5")
	w.await("its link up again", endpoint)
}

func TestWatchOutlivesAging(t *testing.T) {
	n, a, b := bridged(t)
	w := watchIn(n, options)
	want := func() []Endpoint {
		return []Endpoint{n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245")}
	}
	w.await("both containers", want()...)
	for _, c := range []struct {
		veth string
		*space
	}{{"vethA", a}, {"vethB", b}} {
		n.must(n.NeighDel(&netlink.Neigh{Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
			LinkIndex: n.index(c.veth), HardwareAddr: c.link("eth0").Attrs().HardwareAddr}))
	}
	w.settled(n, "FDB entries deleted", want()...)

	// A bridge loses its neighbours without a failure when ARP is switched off or on.
	n.must(n.LinkSetARPOff(n.link("br245")))
	n.must(n.LinkSetARPOn(n.link("br245")))
	neighs, err := n.NeighList(n.index("br245"), unix.AF_INET)
	n.must(err)
	for _, neigh := range neighs {
		if subnet.Contains(netip.AddrFrom4([4]byte(neigh.IP.To4()))) && neigh.State&nudValid != 0 {
			t.Fatalf("the kernel still knows %v: nothing aged here", neigh)
		}
	}
	w.settled(n, "neighbours flushed", want()...)

	// A second Watch has nothing to go by but what is known from before.
	watchIn(n, options).await("a restart that knows nothing")
	o := options
	o.Known = want()
	watchIn(n, o).await("a restart that knows", want()...)
}

func TestWatchFollowsTheBridgesMAC(t *testing.T) {
	n, a, b := bridgedBy(t, nil)
	w := watchIn(n, options)
	w.await("both containers",
		n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245"))
	old := n.mac("br245")

	// A bridge without a MAC of its own takes the lowest of its ports'.
	lowest := net.HardwareAddr{0, 0, 0, 0, 0, 1}
	n.addPort("vethL", lowest)
	if n.mac("br245") != mac(lowest) {
		t.Fatalf("the bridge's MAC is %s, not its port's %s", n.mac("br245"), lowest)
	}
	w.await("a port of a lower MAC joins",
		n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245"))
	n.must(n.LinkDel(n.link("vethL")))
	if n.mac("br245") != old {
		t.Fatalf("the bridge's MAC is %s, not back at %s", n.mac("br245"), old)
	}
	w.await("it leaves",
		n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245"))
}

func TestWatchFollowsMoves(t *testing.T) {
	n, a, b := bridged(t)
	w := watchIn(n, options)
	endpointA, endpointB := n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245")
	w.await("both containers", endpointA, endpointB)

	// A takes B's address: another MAC for one IP.
	b.must(b.AddrDel(b.link("eth0"), ipAddr("172.245.0.3/24")))
	a.must(a.AddrDel(a.link("eth0"), ipAddr("172.245.0.2/24")))
	a.must(a.AddrAdd(a.link("eth0"), ipAddr("172.245.0.3/24")))
	a.speak("172.245.0.1")
	endpointA3 := n.endpoint("vethA", a, "172.245.0.3", "br245")
	w.await("an address taken over", endpointA, endpointA3)

	// Nobody answers when the kernel asks for the address that A gave up.
	n.must(n.NeighSet(&netlink.Neigh{LinkIndex: n.index("br245"), State: netlink.NUD_PROBE,
		IP: net.IPv4(172, 245, 0, 2), HardwareAddr: a.link("eth0").Attrs().HardwareAddr}))
	w.await("an address that fails", endpointA3)

	// B takes A's MAC, and speaks with no address: the MAC is on another port.
	macA := a.link("eth0").Attrs().HardwareAddr
	a.down("eth0")
	w.await("the container's end down")
	b.down("eth0")
	b.must(b.LinkSetHardwareAddr(b.link("eth0"), macA))
	b.up("eth0")
	b.must(b.AddrAdd(b.link("eth0"), ipAddr("172.245.0.3/24")))
	b.speak("172.245.0.1")
	w.await("a MAC on another port", n.endpoint("vethB", b, "172.245.0.3", "br245"))
}

func TestWatchLetsGo(t *testing.T) {
	steps := map[string]struct {
		leave func(n, a *space)
		links []string
	}{
		"link down":            {leave: func(n, _ *space) { n.down("vethA") }, links: []string{"vethA", "vethB"}},
		"container's end down": {leave: func(_, a *space) { a.down("eth0") }, links: []string{"vethA", "vethB"}},
		"link out of bridge":   {leave: func(n, _ *space) { n.must(n.LinkSetNoMaster(n.link("vethA"))) }, links: []string{"vethB"}},
		"link to another namespace": {leave: func(n, a *space) { n.must(n.LinkSetNsFd(n.link("vethA"), int(a.ns))) },
			links: []string{"vethB"}},
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			n, a, b := bridged(t)
			w := watchIn(n, options)
			w.await("both containers", n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245"))
			var links []Link
			for _, name := range step.links {
				links = append(links, Link{n.index(name), name})
			}
			step.leave(n, a)
			w.await(name, n.endpoint("vethB", b, "172.245.0.3", "br245"))
			w.awaitLinks(name, links...)
		})
	}
}

func TestWatchLetsGoOfTheBridge(t *testing.T) {
	steps := map[string]func(n *space){
		"address lost": func(n *space) { n.must(n.AddrDel(n.link("br245"), ipAddr("172.245.0.1/24"))) },
		"deleted":      func(n *space) { n.must(n.LinkDel(n.link("br245"))) },
	}
	for name, leave := range steps {
		t.Run(name, func(t *testing.T) {
			n, a, b := bridged(t)
			w := watchIn(n, options)
			w.await("both containers", n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245"))
			leave(n)
			w.await(name)
			w.awaitLinks(name)
		})
	}
}

func TestWatchLeavesOthersAlone(t *testing.T) {
	n, a, _ := bridged(t)
	n.addBridge("brOther", "172.246.0.1/24", nil)
	n.addContainer("vethOther", "brOther", "172.246.0.2/24").speak("172.246.0.1")
	n.must(n.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx", MasterIndex: n.index("br245")}, VxlanId: 7, Port: 4789}))
	n.up("vx")
	// What is learned behind a vxlan port is no container of this node.
	remote := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	n.must(n.NeighSet(&netlink.Neigh{Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP,
		LinkIndex: n.index("vx"), HardwareAddr: remote}))
	n.must(n.NeighSet(&netlink.Neigh{LinkIndex: n.index("br245"), State: netlink.NUD_PERMANENT, IP: net.IPv4(172, 245, 0, 9), HardwareAddr: remote}))

	o := options
	o.Ignore = []string{"vethB"}
	w := watchIn(n, o)
	endpointA := n.endpoint("vethA", a, "172.245.0.2", "br245")
	w.await("all but what is not ours", endpointA)
	w.awaitLinks("all but what is not ours", Link{n.index("vethA"), "vethA"})

	// A container that moves away to behind the vxlan port is a container no more.
	n.must(n.NeighSet(&netlink.Neigh{Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP,
		LinkIndex: n.index("vx"), HardwareAddr: a.link("eth0").Attrs().HardwareAddr}))
	w.await("a MAC that moved to a vxlan port")
}

func TestWatchCatchesUpAfterOverflow(t *testing.T) {
	n, away := newSpace(t), newSpace(t)
	n.addBridge("br245", "172.245.0.1/24", fixedMAC)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	const containers = 60
	bridge := n.index("br245")
	var logs bytes.Buffer
	var last State
	w := watcher{machines: newMachines(options.Subnets, nil), log: slog.New(slog.NewTextHandler(&logs, nil)), buffer: 1, every: verifyEvery}
	w.deliver = func(s State) error {
		if last = s; len(s.Links) == containers {
			cancel()
		}
		if len(s.Links) > 0 {
			return nil
		}
		for i := range containers { // more than the socket holds
			if err := n.LinkAdd(&netlink.Veth{PeerName: fmt.Sprint("p", i), PeerNamespace: netlink.NsFd(away.ns),
				LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("c", i), MasterIndex: bridge}}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := n.do(func() error { return w.run(ctx) }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if len(last.Links) != containers || !strings.Contains(logs.String(), "listing containers again") {
		t.Errorf("%d links, want %d; log: %s", len(last.Links), containers, &logs)
	}
}

func TestWatchEndsWithTheCallbacksError(t *testing.T) {
	n := newSpace(t)
	broken := errors.New("broken")
	err := n.do(func() error { return Watch(context.Background(), options, func(State) error { return broken }) })
	if !errors.Is(err, broken) {
		t.Errorf("Watch ended with %v, want the callback's error", err)
	}
}

func TestWatchSeesItsOwnNamespaceOnly(t *testing.T) {
	_, a, _ := bridged(t)
	watchIn(a, options).awaitLinks("a namespace with a veth but without containers")
}

func TestWatchRefusesNoSubnet(t *testing.T) {
	if err := Watch(context.Background(), Options{}, func(State) error { return nil }); err == nil {
		t.Error("Watch of no subnet started")
	}
}
