// SPDX-License-Identifier: Apache-2.0

//go:build root

package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/nstest"
)

// A world is a node, which the test's thread is in, between three others:
//
//	container ── pod0 ── node ── eth0 ── peer, another node with a container
//	                      └───── wan0 ── internet
//
// The overlay is plain routing (host-gw). Everybody has a route to everything, so that
// an answer comes back whether or not somebody translated addresses.
type world struct {
	addresses
	t         *testing.T
	node      place
	container place
	peer      place
	internet  place
}

// place is a network namespace and the address it is reached by.
type place struct {
	ns   netns.NsHandle
	addr netip.Addr
}

// addresses are a world's, of one address family.
type addresses struct {
	family                     family
	network, subnet            netip.Prefix
	gateway, container         netip.Prefix // pod0 and the container
	eth0, peer                 netip.Prefix // in the underlay
	peerGateway, peerContainer netip.Prefix // both at the peer
	wan0, internet             netip.Prefix
	group                      netip.Addr   // multicast, by way of wan0
	stale                      netip.Prefix // a subnet the node once had
}

var (
	ipv4World = addresses{
		family:  ipv4,
		network: p("172.244.0.0/14"), subnet: p("172.245.0.0/24"),
		gateway: p("172.245.0.1/24"), container: p("172.245.0.2/24"),
		eth0: p("192.168.32.245/24"), peer: p("192.168.32.246/24"),
		peerGateway: p("172.246.0.1/24"), peerContainer: p("172.246.0.2/24"),
		wan0: p("198.51.100.1/24"), internet: p("198.51.100.9/24"),
		group: netip.MustParseAddr("239.1.2.3"),
		stale: p("172.247.9.0/24"),
	}
	ipv6World = addresses{
		family:  ipv6,
		network: p("fd00:244::/30"), subnet: p("fd00:245::/64"),
		gateway: p("fd00:245::1/64"), container: p("fd00:245::2/64"),
		eth0: p("2001:db8:32::245/64"), peer: p("2001:db8:32::246/64"),
		peerGateway: p("fd00:246::1/64"), peerContainer: p("fd00:246::2/64"),
		wan0: p("2001:db8:100::1/64"), internet: p("2001:db8:100::9/64"),
		group: netip.MustParseAddr("ff0e::1:2:3").WithZone("wan0"),
		stale: p("fd00:247:0:9::/64"),
	}
)

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// rules are what a daemon of this world asks for.
func (a addresses) rules() Rules {
	return Rules{Network: a.network, Subnet: a.subnet, Masquerade: true, RandomFully: true, Forward: true}
}

// inWorlds runs a test in a world of each address family.
func inWorlds(t *testing.T, test func(w *world)) {
	t.Helper()
	for name, a := range map[string]addresses{"IPv4": ipv4World, "IPv6": ipv6World} {
		t.Run(name, func(t *testing.T) { test(newWorld(t, a)) })
	}
}

func newWorld(t *testing.T, a addresses) *world {
	nstest.Enter(t)
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = home.Close() })
	w := &world{
		t:         t,
		addresses: a,
		node:      place{home, a.eth0.Addr()},
		container: newPlace(t, a.container),
		peer:      newPlace(t, a.peerContainer),
		internet:  newPlace(t, a.internet),
	}
	w.must(noDAD())
	forwarding(t)
	w.wire("pod0", a.gateway, w.container, a.container)
	w.wire("eth0", a.eth0, w.peer, a.peer, a.peerGateway, a.peerContainer)
	w.wire("wan0", a.wan0, w.internet, a.internet)
	w.route(w.node, a.peerContainer, a.peer)
	w.route(w.container, a.everything(), a.gateway)
	w.route(w.peer, a.everything(), a.eth0)
	w.route(w.internet, a.everything(), a.wan0)
	return w
}

func (a addresses) everything() netip.Prefix {
	return netip.PrefixFrom(a.network.Addr(), 0).Masked()
}

func newPlace(t *testing.T, addr netip.Prefix) place {
	t.Helper()
	var ns netns.NsHandle
	err := onThread(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		return noDAD()
	})
	if err != nil {
		t.Fatalf("create network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return place{ns, addr.Addr()}
}

// noDAD lets the thread's namespace use IPv6 addresses at once.
func noDAD() error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
}

func forwarding(t *testing.T) {
	t.Helper()
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		// /proc/sys shows the thread's own namespace.
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// wire joins the node, by a link of that name, with another place's eth0.
func (w *world) wire(name string, here netip.Prefix, there place, theirs ...netip.Prefix) {
	w.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	w.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0", PeerNamespace: netlink.NsFd(there.ns)}))
	w.must(configure(name, here))
	w.must(w.in(there, func() error {
		return errors.Join(configure("lo"), configure("far0", theirs...))
	}))
	// The end that was set up first drops what it is given until the kernel has noticed its carrier (net/core/link_watch.c).
	for deadline := time.Now().Add(answerLimit); nstest.Link(w.t, name).Attrs().OperState != netlink.OperUp; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s does not come up", name)
		}
	}
}

func configure(name string, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD})
		if err != nil {
			return fmt.Errorf("add %v to %s: %w", a, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func (w *world) route(at place, dst, gateway netip.Prefix) {
	w.t.Helper()
	w.must(w.in(at, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(dst.Masked()), Gw: gateway.Addr().AsSlice()})
	}))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// in runs f on a thread in that place.
func (*world) in(at place, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(at.ns); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

const (
	servicePort = 9000 // what everybody listens on
	answerLimit = 30 * time.Second
	lossLimit   = 200 * time.Millisecond
)

// source sends a datagram to what the server is asked by, and returns the source that the
// server saw. Its answer has to come back to the sender.
func (w *world) source(from place, asked netip.AddrPort, server place) netip.Addr {
	w.t.Helper()
	seen, _, err := w.talk(from, asked, server, answerLimit)
	if err != nil {
		w.t.Fatalf("from %v to %v: %v", from.addr, asked, err)
	}
	return seen.Addr()
}

// lost says whether a datagram is dropped on the way.
func (w *world) lost(from place, asked netip.AddrPort, server place) bool {
	w.t.Helper()
	_, _, err := w.talk(from, asked, server, lossLimit)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("from %v to %v: %v", from.addr, asked, err)
	}
	return err != nil
}

// talk returns the source that the server saw, and the one the client sent from.
func (w *world) talk(from place, asked netip.AddrPort, to place, limit time.Duration) (seen, sent netip.AddrPort, err error) {
	w.t.Helper()
	var server *net.UDPConn
	w.must(w.in(to, func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to.service()))
		return err
	}))
	defer server.Close()
	var client net.Conn
	w.must(w.in(from, func() (err error) {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.addr, 0))}
		client, err = d.DialContext(context.Background(), "udp", asked.String())
		return err
	}))
	defer client.Close()
	deadline := time.Now().Add(limit)
	w.must(errors.Join(server.SetDeadline(deadline), client.SetDeadline(deadline)))

	sent = client.LocalAddr().(*net.UDPAddr).AddrPort()
	buf := make([]byte, 16)
	if _, err = client.Write([]byte("ask")); err != nil {
		return seen, sent, err
	}
	n, seen, err := server.ReadFromUDPAddrPort(buf)
	if err != nil {
		return seen, sent, fmt.Errorf("ask: %w", err)
	}
	if _, err = server.WriteToUDPAddrPort(buf[:n], seen); err != nil {
		return seen, sent, err
	}
	if _, err = client.Read(buf); err != nil {
		return seen, sent, fmt.Errorf("answer: %w", err)
	}
	return seen, sent, nil
}

// by is the same place by another of its addresses.
func (p place) by(a netip.Prefix) place { return place{p.ns, a.Addr()} }

// service is where the place's server listens.
func (p place) service() netip.AddrPort { return netip.AddrPortFrom(p.addr, servicePort) }

// iptables runs a command line for this family by that variant, "-nft" or "-legacy":
//
//	$N network, $S subnet, $O stale subnet, $C container, $R peer's container,
//	$P service port, $D container's service, $E peer's container's service
func (w *world) iptables(variant string, lines ...string) {
	w.t.Helper()
	expand := strings.NewReplacer("$S", w.subnet.String(), "$C", w.container.addr.String(), "$N", w.network.String(),
		"$R", w.peer.addr.String(), "$O", w.stale.String(), "$P", strconv.Itoa(servicePort),
		"$D", w.container.service().String(), "$E", w.peer.service().String())
	for _, l := range lines {
		w.run(append([]string{w.family.command + variant, "-w", "5"}, strings.Fields(expand.Replace(l))...)...)
	}
}

// inVariants runs a test for each iptables that works on this kernel: the legacy
// one can be left out when it is built.
func inVariants(t *testing.T, test func(t *testing.T, variant string)) {
	t.Helper()
	for _, variant := range variants(t) {
		t.Run(strings.TrimPrefix(variant, "-"), func(t *testing.T) { test(t, variant) })
	}
}

func variants(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-c", "iptables-legacy -t nat -S && ip6tables-legacy -t nat -S").CombinedOutput()
	if err != nil {
		t.Logf("without iptables-legacy: %v: %s", err, out)
		return []string{"-nft"}
	}
	return []string{"-nft", "-legacy"}
}

// run runs a command on the node.
func (w *world) run(args ...string) string {
	w.t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(w.t.Context(), args[0], args[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
