// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	subnet6  = netip.MustParsePrefix("2001:db8:42:1::/64")
	options6 = Options{Subnets: []netip.Prefix{subnet6}}
)

// bridged6 is bridged with addresses of IPv6.
func bridged6(t *testing.T) (n, a, b *space) {
	t.Helper()
	n = newSpace(t)
	n.enable6()
	n.addBridge("br245", "2001:db8:42:1::1/64", fixedMAC)
	a = n.addContainer("vethA", "br245", "2001:db8:42:1::2/64")
	b = n.addContainer("vethB", "br245", "2001:db8:42:1::3/64")
	a.exchange("2001:db8:42:1::1")
	b.exchange("2001:db8:42:1::1")
	return n, a, b
}

// Link-local addresses, which each container has, are no endpoints.
func TestWatch6FindsBridgedContainers(t *testing.T) {
	n, a, b := bridged6(t)
	before := watchIn(n, options6)
	want := []Endpoint{n.endpoint("vethA", a, "2001:db8:42:1::2", "br245"), n.endpoint("vethB", b, "2001:db8:42:1::3", "br245")}
	before.await("containers that start under a running Watch", want...)
	w := watchIn(n, options6)
	w.await("containers older than Watch", want...)
	if first := w.all()[0]; !cmp.Equal(want, first.Endpoints, compare...) || len(first.Links) != 2 {
		t.Errorf("first State is %+v, want two links and %v", first, want)
	}
	c := n.addContainer("vethC", "br245", "2001:db8:42:1::4/64")
	c.speak("2001:db8:42:1::1")
	w.await("a new container's endpoint", append(want, n.endpoint("vethC", c, "2001:db8:42:1::4", "br245"))...)
	n.must(n.LinkDel(n.link("vethC")))
	w.await("a container gone", want...)
}

func TestWatch6FindsRoutedContainers(t *testing.T) {
	n := newSpace(t)
	n.enable6()
	w := watchIn(n, options6)
	c := n.addContainer("vethR", "", "2001:db8:42:1::5/128")
	n.routeTo("vethR", "2001:db8:42:1::5")
	w.awaitLinks("a veth with a host route", Link{n.index("vethR"), "vethR"})
	n.must(n.AddrAdd(n.link("vethR"), ipAddr("2001:db8:99::1/128"))) // gives the node a source to ask from
	n.speak("2001:db8:42:1::5")
	endpoint := n.endpoint("vethR", c, "2001:db8:42:1::5", "vethR")
	w.await("a routed container", endpoint)
	n.down("vethR")
	w.await("its link down")
	w.awaitLinks("its link down")
	n.up("vethR")
	n.must(n.AddrAdd(n.link("vethR"), ipAddr("2001:db8:99::1/128"))) // which went with it
	n.routeTo("vethR", "2001:db8:42:1::5")
	n.speak("2001:db8:42:1::5")
	w.await("its link back", endpoint)
}

// A container of both families is found in both, by one Watch; its link is one.
func TestWatchFindsBothFamilies(t *testing.T) {
	n, a, b := bridged6(t)
	for name, c := range map[string]*space{"172.245.0.2/24": a, "172.245.0.3/24": b} {
		c.must(c.AddrAdd(c.link("eth0"), ipAddr(name)))
	}
	n.must(n.AddrAdd(n.link("br245"), ipAddr("172.245.0.1/24")))
	w := watchIn(n, Options{Subnets: []netip.Prefix{subnet, subnet6}})
	a.speak("172.245.0.1")
	b.speak("172.245.0.1")
	endpoints := []Endpoint{
		n.endpoint("vethA", a, "172.245.0.2", "br245"), n.endpoint("vethB", b, "172.245.0.3", "br245"),
		n.endpoint("vethA", a, "2001:db8:42:1::2", "br245"), n.endpoint("vethB", b, "2001:db8:42:1::3", "br245"),
	}
	w.await("both families", endpoints...)
	w.awaitLinks("both families", Link{n.index("vethA"), "vethA"}, Link{n.index("vethB"), "vethB"})
	n.must(n.AddrDel(n.link("br245"), ipAddr("172.245.0.1/24")))
	w.await("IPv6 alone", endpoints[2:]...)
	w.awaitLinks("IPv6 alone", Link{n.index("vethA"), "vethA"}, Link{n.index("vethB"), "vethB"})
	o := options6
	o.Subnets, o.Known = []netip.Prefix{subnet, subnet6}, endpoints
	watchIn(n, o).await("a restart that knows", endpoints[2:]...)
}

// A container may have several addresses, as with SLAAC its lasting and its temporary ones
// (RFC 8981). One is an endpoint when it is used, and no more when it fails.
func TestWatch6FollowsSeveralAddresses(t *testing.T) {
	n, a, b := bridged6(t)
	w := watchIn(n, options6)
	endpointA, endpointB := n.endpoint("vethA", a, "2001:db8:42:1::2", "br245"), n.endpoint("vethB", b, "2001:db8:42:1::3", "br245")
	w.await("both containers", endpointA, endpointB)
	a.must(a.AddrAdd(a.link("eth0"), ipAddr("2001:db8:42:1:60ff:fe00::2/64")))
	w.settled(n, "an address that nobody has heard of", endpointA, endpointB)
	n.speak("2001:db8:42:1:60ff:fe00::2")
	temporary := n.endpoint("vethA", a, "2001:db8:42:1:60ff:fe00::2", "br245")
	w.await("an address that is used", endpointA, endpointB, temporary)
	a.must(a.AddrDel(a.link("eth0"), ipAddr("2001:db8:42:1:60ff:fe00::2/64")))
	n.must(n.NeighSet(&netlink.Neigh{LinkIndex: n.index("br245"), State: netlink.NUD_PROBE,
		IP: net.ParseIP("2001:db8:42:1:60ff:fe00::2"), HardwareAddr: a.link("eth0").Attrs().HardwareAddr}))
	w.await("an address that fails", endpointA, endpointB)

	// B takes A's address: another MAC, behind another port.
	a.must(a.AddrDel(a.link("eth0"), ipAddr("2001:db8:42:1::2/64")))
	b.must(b.AddrDel(b.link("eth0"), ipAddr("2001:db8:42:1::3/64")))
	b.must(b.AddrAdd(b.link("eth0"), ipAddr("2001:db8:42:1::2/64")))
	neighbours, err := b.NeighList(b.index("eth0"), unix.AF_INET6)
	b.must(err)
	for _, gateway := range neighbours { // else B has no question, in which it would tell its MAC
		_ = b.NeighDel(&gateway)
	}
	b.speak("2001:db8:42:1::1")
	w.await("an address taken over", n.endpoint("vethB", b, "2001:db8:42:1::2", "br245"), endpointB)
}

func TestWatch6OutlivesAging(t *testing.T) {
	n, a, b := bridged6(t)
	w := watchIn(n, options6)
	want := []Endpoint{n.endpoint("vethA", a, "2001:db8:42:1::2", "br245"), n.endpoint("vethB", b, "2001:db8:42:1::3", "br245")}
	w.await("both containers", want...)
	for veth, c := range map[string]*space{"vethA": a, "vethB": b} {
		n.must(n.NeighDel(&netlink.Neigh{Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
			LinkIndex: n.index(veth), HardwareAddr: c.link("eth0").Attrs().HardwareAddr}))
	}
	w.settled(n, "FDB entries deleted", want...)
	n.must(n.LinkSetARPOff(n.link("br245")))
	n.must(n.LinkSetARPOn(n.link("br245")))
	neighs, err := n.NeighList(n.index("br245"), unix.AF_INET6)
	n.must(err)
	for _, neigh := range neighs {
		if a, _ := netip.AddrFromSlice(neigh.IP); subnet6.Contains(a) && neigh.State&nudValid != 0 {
			t.Fatalf("the kernel still knows %v: nothing aged here", neigh)
		}
	}
	w.settled(n, "neighbours flushed", want...)
	watchIn(n, options6).await("a restart that knows nothing")
}

// An address under duplicate address detection is nobody's yet: neither the container's
// question about it nor the node's own makes it an endpoint.
func TestWatch6WaitsForDuplicateAddressDetection(t *testing.T) {
	n, _, _ := bridged6(t)
	c := n.addContainer("vethC", "br245", "2001:db8:42:1::4/64")
	c.sysctl("ipv6/conf/eth0/accept_dad", "1")
	c.sysctl("ipv6/conf/eth0/dad_transmits", "1")
	c.sysctl("ipv6/neigh/eth0/retrans_time_ms", "600000") // as long as it detects
	c.must(c.AddrDel(c.link("eth0"), ipAddr("2001:db8:42:1::4/64")))
	w := watchIn(n, options6)
	known := w.until("A and B", func(s State) string {
		if len(s.Endpoints) == 2 {
			return ""
		}
		return fmt.Sprint(s.Endpoints)
	}).Endpoints
	detected := ipAddr("2001:db8:42:1::6/64")
	detected.Flags = 0
	c.must(c.AddrAdd(c.link("eth0"), detected))
	mac := c.link("eth0").Attrs().HardwareAddr.String()
	for deadline := time.Now().Add(patience); ; { // its question has come by: the bridge knows its MAC
		fdb, err := n.NeighList(n.index("vethC"), unix.AF_BRIDGE)
		n.must(err)
		if slices.ContainsFunc(fdb, func(e netlink.Neigh) bool { return e.HardwareAddr.String() == mac }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the container never asked for duplicates")
		}
	}
	w.settled(n, "tentative", known...)
	n.speak("2001:db8:42:1::6")
	for deadline := time.Now().Add(patience); ; { // the node's question is not answered
		neighs, err := n.NeighList(n.index("br245"), unix.AF_INET6)
		n.must(err)
		if slices.ContainsFunc(neighs, func(e netlink.Neigh) bool {
			return e.IP.String() == "2001:db8:42:1::6" && e.State == netlink.NUD_FAILED
		}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the address did not fail: %v", neighs)
		}
	}
	w.settled(n, "tentative, and asked for", known...)
	c.must(c.AddrDel(c.link("eth0"), detected))
	c.must(c.AddrAdd(c.link("eth0"), ipAddr("2001:db8:42:1::6/64")))
	c.speak("2001:db8:42:1::1")
	w.await("its own", append(known, n.endpoint("vethC", c, "2001:db8:42:1::6", "br245"))...)
}

// What nobody answers for is forgotten.
func TestVerify6FindsAnAddressGone(t *testing.T) {
	n, a, _ := bridged6(t)
	n.sysctl("ipv6/neigh/br245/delay_first_probe_time", "1")
	two, three := fmt.Sprintf("2001:db8:42:1::2 at %d", n.index("vethA")), fmt.Sprintf("2001:db8:42:1::3 at %d", n.index("vethB"))
	states := followOf(n, subnet6, 10*time.Millisecond)
	awaitPlaces(t, states, "before", []string{two, three})
	a.must(a.AddrDel(a.link("eth0"), ipAddr("2001:db8:42:1::2/64")))
	awaitPlaces(t, states, "A's address given up", []string{three})
}

// The kernel asks from a link-local address; where there is none it is not made to.
func TestVerify6NeedsALinkLocalAddress(t *testing.T) {
	for want, linkLocal := range map[int]bool{unix.NUD_DELAY: true, unix.NUD_STALE: false} {
		n, a, _ := bridged6(t)
		if !linkLocal {
			n.sysctl("ipv6/conf/br245/addr_gen_mode", "1") // IN6_ADDR_GEN_MODE_NONE
			addrs, err := n.AddrList(n.link("br245"), unix.AF_INET6)
			n.must(err)
			for _, addr := range addrs {
				if addr.IP.IsLinkLocalUnicast() {
					n.must(n.AddrDel(n.link("br245"), &addr))
				}
			}
		}
		two := net.ParseIP("2001:db8:42:1::2")
		n.must(n.NeighSet(&netlink.Neigh{LinkIndex: n.index("br245"), State: unix.NUD_STALE,
			IP: two, HardwareAddr: a.link("eth0").Attrs().HardwareAddr}))
		verifyNow(n, options6, subnet6)
		all, err := n.NeighList(n.index("br245"), unix.AF_INET6)
		n.must(err)
		i := slices.IndexFunc(all, func(e netlink.Neigh) bool { return e.IP.Equal(two) })
		if i < 0 || all[i].State != want {
			t.Errorf("with a link-local address %t: neighbours %v, want state %d", linkLocal, all, want)
		}
	}
}

// A container proxies for one behind it (RFC 4861, 7.2.8) as Linux does where proxy_ndp is set for its device alone: it
// answers who asks the link, and forwards what asks it, to no answer. The address is found again all the same,
// and nobody has to send to it first.
func TestWatch6FindsAProxiedAddressAgain(t *testing.T) {
	n, a, _ := bridged6(t)
	const behind = "2001:db8:42:1::c8"
	for path, value := range map[string]string{
		"ipv6/conf/all/forwarding": "1", "ipv6/conf/eth0/proxy_ndp": "1",
		"ipv6/neigh/eth0/proxy_delay": "0", // else up to 0.8 s, at random
	} {
		a.sysctl(path, value)
	}
	a.must(a.NeighSet(&netlink.Neigh{LinkIndex: a.index("eth0"), Family: unix.AF_INET6, Flags: netlink.NTF_PROXY, IP: net.ParseIP(behind)}))
	a.must(a.RouteAdd(&netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: &net.IPNet{IP: net.ParseIP(behind), Mask: net.CIDRMask(128, 128)}}))
	n.sysctl("ipv6/neigh/br245/retrans_time_ms", "200")
	states := followOf(n, subnet6, time.Hour)
	two, three := fmt.Sprintf("2001:db8:42:1::2 at %d", n.index("vethA")), fmt.Sprintf("2001:db8:42:1::3 at %d", n.index("vethB"))
	found := []string{two, three, fmt.Sprintf("%s at %d", behind, n.index("vethA"))}
	awaitPlaces(t, states, "those on the bridge", []string{two, three})
	n.speak(behind)
	awaitPlaces(t, states, "the one behind", found)
	n.must(n.NeighSet(&netlink.Neigh{LinkIndex: n.index("br245"), State: netlink.NUD_PROBE,
		IP: net.ParseIP(behind), HardwareAddr: a.link("eth0").Attrs().HardwareAddr}))
	awaitPlaces(t, states, "the router asked, and silent", []string{two, three})
	awaitPlaces(t, states, "the link asked", found)
}
