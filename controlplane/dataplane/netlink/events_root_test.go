// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/nstest"
)

// events returns what the kernel announced about links, addresses, neighbours
// and routes while do ran. A change of the test's own, made after do, says when
// everything has been read, so nothing is waited for.
func events(t *testing.T, do func()) []string {
	t.Helper()
	settle(t)
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	do()
	marker := &netlink.Neigh{
		LinkIndex: nstest.Link(t, "peer-eth0").Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.IPv4(203, 0, 113, 1), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
	}
	if err := netlink.NeighSet(marker); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netlink.NeighDel(marker); err != nil {
			t.Error(err)
		}
	}()
	var seen []string
	for {
		msgs, _, err := s.Receive()
		if err != nil {
			t.Fatalf("read events: %v", err)
		}
		for _, m := range msgs {
			if n, err := netlink.NeighDeserialize(m.Data); m.Header.Type == unix.RTM_NEWNEIGH && err == nil && n.IP.Equal(marker.IP) {
				return seen
			}
			if !saidTwice(m.Data) {
				seen = append(seen, eventName(m.Header.Type, m.Data))
			}
		}
	}
}

// saidTwice reports whether a message is the second about a change of the FDB. Before kernel 6.13
// rtnetlink announces one again that the vxlan driver has announced, and knows no node (NDA_DST).
func saidTwice(data []byte) bool {
	n, err := netlink.NeighDeserialize(data)
	return err == nil && n.Family == unix.AF_BRIDGE && n.IP == nil
}

func eventName(kind uint16, data []byte) string {
	name, known := map[uint16]string{
		unix.RTM_NEWROUTE: "new route", unix.RTM_DELROUTE: "del route",
		unix.RTM_NEWNEIGH: "new neigh", unix.RTM_DELNEIGH: "del neigh",
	}[kind]
	if !known {
		return fmt.Sprintf("message type %d: %x", kind, data)
	}
	n, err := netlink.NeighDeserialize(data)
	switch {
	case !strings.HasSuffix(name, "neigh") || err != nil:
		return name
	case n.Family == unix.AF_BRIDGE:
		return strings.Replace(name, "neigh", "fdb", 1)
	case kind == unix.RTM_NEWNEIGH && n.State == netlink.NUD_FAILED:
		return "failed neigh" // the kernel's own step before it deletes one
	}
	return name
}

// settle waits until no device has an announcement of its carrier outstanding (the
// kernel delays those by up to a second, net/core/link_watch.c), and no address of IPv6
// that of itself and its route (addrconf_dad_work in net/ipv6/addrconf.c, even where nothing is detected).
func settle(t *testing.T) {
	t.Helper()
	eventually(t, "every veth is operational, and no TUN device", func() bool {
		links, err := netlink.LinkList()
		return err == nil && !slices.ContainsFunc(links, func(l netlink.Link) bool {
			state := l.Attrs().OperState
			return l.Type() == "veth" && state != netlink.OperUp || l.Type() == "tuntap" && state != netlink.OperDown
		})
	})
	eventually(t, "every IPv6 address has its route", addressesRouted)
}

// addressesRouted reports whether every IPv6 address can be sent to.
func addressesRouted() bool {
	addrs, err := netlink.AddrList(nil, unix.AF_INET6)
	if err != nil {
		return false
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	return err == nil && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.Equal(a.IP) })
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never saw that %s", what)
		}
	}
}

// ip runs one of iproute2's commands in the test's namespace and returns the
// lines it prints, sorted only by the kernel.
func ip(t *testing.T, args ...string) (lines []string) {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}
