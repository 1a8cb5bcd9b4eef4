// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestTablesMirrorTheKernel makes random changes to a real namespace and holds
// that the tables kept by notifications are those that a listing shows, the
// kernel's silent flushes included.
func TestTablesMirrorTheKernel(t *testing.T) {
	for _, subnet := range []netip.Prefix{subnet, subnet6} {
		t.Run(subnet.String(), func(t *testing.T) { mirrorsTheKernel(t, subnet, 150) })
	}
}

func mirrorsTheKernel(t *testing.T, subnet netip.Prefix, rounds int) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	n, c := newSpace(t), newSpace(t)
	n.sysctl("ipv4/conf/all/promote_secondaries", fmt.Sprint(random.IntN(2)))
	if subnet.Addr().Is6() {
		n.enable6()
	}
	w := watcher{machines: newMachines([]netip.Prefix{subnet}, nil), buffer: receiveBuffer}
	n.must(n.do(func() error {
		socket, err := w.subscribe()
		if err != nil {
			return err
		}
		defer socket.Close()
		timeout := unix.NsecToTimeval(int64(time.Millisecond))
		if err = socket.SetReceiveTimeout(&timeout); err != nil {
			return err
		}
		churn, done := churn{n, c, subnet, random}, 0
		for round := range rounds {
			if round == 0 || random.IntN(4) == 0 { // a listing, some changes ahead of the notifications
				listed, err := list(context.Background(), subnet)
				if err != nil {
					return err
				}
				w.machines[0].reset(listed)
			}
			// Few changes, for doubt would hide what has been imitated badly before it.
			if err := mirror(&w, socket, subnet, exceptCarrier); err != nil {
				return fmt.Errorf("seed %d, round %d: %w", seed, round, err)
			}
			for range 1 + random.IntN(4) {
				if churn.step() == nil {
					done++
				}
			}
		}
		if done < rounds {
			t.Errorf("seed %d: the kernel took only %d changes in %d rounds", seed, done, rounds)
		}
		if err := mirror(&w, socket, subnet, mirrored); err != nil {
			return fmt.Errorf("seed %d, at last: %w", seed, err)
		}
		return nil
	}))
}

// exceptCarrier is for a start: the kernel tells of a carrier up to a second late.
var exceptCarrier = append([]cmp.Option{cmpopts.IgnoreFields(link{}, "carrier")}, mirrored...)

// mirror takes in notifications until the tables are as listed. What the kernel does
// later than it was told to may come between the two: a first difference may be none.
func mirror(w *watcher, socket *nl.NetlinkSocket, subnet netip.Prefix, compared []cmp.Option) error {
	for deadline := time.Now().Add(patience); ; {
		msgs, _, err := socket.Receive()
		for ; err == nil; msgs, _, err = socket.Receive() {
			w.apply(msgs)
		}
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		if err = w.settleDoubt(context.Background()); err != nil {
			return err
		}
		listed, err := list(context.Background(), subnet)
		if err != nil {
			return err
		}
		diff := cmp.Diff(listed, w.machines[0].tables, compared...)
		switch {
		case diff == "":
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("tables (-listed +kept):\n%s", diff)
		}
	}
}

// churn changes a namespace in random ways.
type churn struct {
	n, c   *space
	subnet netip.Prefix
	random *rand.Rand
}

// step makes one change, which the kernel may refuse.
func (c churn) step() error {
	veth, err := c.n.LinkByName(c.name("veth", 4))
	if err != nil {
		return c.n.LinkAdd(&netlink.Veth{PeerName: c.name("p", 99), PeerNamespace: netlink.NsFd(c.c.ns),
			LinkAttrs: netlink.LinkAttrs{Name: c.name("veth", 4), Flags: net.FlagUp}})
	}
	br, err := c.n.LinkByName(c.name("br", 2))
	if err != nil {
		return c.n.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: c.name("br", 2), Flags: net.FlagUp}})
	}
	changes := c.changes(veth, br)
	return changes[c.random.IntN(len(changes))]()
}

func (c churn) changes(veth, br netlink.Link) []func() error {
	h, mac := c.n.Handle, net.HardwareAddr{2, 0, 0, 0, 0, byte(c.random.IntN(4))}
	bits := []int{c.subnet.Bits(), c.subnet.Addr().BitLen()}[c.random.IntN(2)]
	addr := ipAddr(fmt.Sprintf("%s/%d", c.address(), bits))
	dev := []netlink.Link{veth, br}[c.random.IntN(2)]
	route := hostRouteOf(veth.Attrs().Index, c.address())
	route.Priority = c.random.IntN(2)
	sourced := *route
	sourced.Src = c.local(nil).IP
	lasting := *route
	lasting.Scope = netlink.SCOPE_HOST // of IPv4
	several := *route
	several.LinkIndex = 0
	several.MultiPath = []*netlink.NexthopInfo{{LinkIndex: veth.Attrs().Index}, {LinkIndex: br.Attrs().Index}}
	routed := *route // by a router, whose address is on the link anyway
	routed.Gw, routed.Flags, routed.Scope = net.ParseIP(c.router()), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	neigh := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: []int{unix.NUD_PERMANENT, unix.NUD_STALE}[c.random.IntN(2)],
		IP: addr.IP, HardwareAddr: mac}
	fdb := &netlink.Neigh{Family: unix.AF_BRIDGE, Flags: unix.NTF_MASTER, State: []int{unix.NUD_NOARP, unix.NUD_REACHABLE}[c.random.IntN(2)],
		LinkIndex: veth.Attrs().Index, HardwareAddr: mac}
	return []func() error{
		func() error { return h.LinkSetMaster(veth, br) },
		func() error { return h.LinkSetMaster(veth, br) },
		func() error { return h.LinkSetNoMaster(veth) },
		func() error { return h.LinkSetUp(dev) },
		func() error { return h.LinkSetUp(dev) },
		func() error { return h.LinkSetDown(dev) },
		func() error { return c.peer(c.c.LinkSetUp) },
		func() error { return c.peer(c.c.LinkSetDown) },
		func() error { return h.LinkSetHardwareAddr(dev, mac) },
		func() error { return h.LinkDel(dev) },
		func() error { return h.AddrAdd(dev, addr) },
		func() error { return h.AddrAdd(dev, addr) },
		func() error { return h.AddrDel(dev, c.local(dev)) },
		func() error { return h.RouteAdd(route) },
		func() error { return h.RouteReplace(route) },
		func() error { return h.RouteAppend(route) },
		func() error { return h.RouteAddEcmp(route) }, // in front of its equals, in IPv4
		func() error { return h.RouteAdd(&lasting) },
		func() error { return h.RouteAdd(&several) },
		func() error { return h.RouteDel(route) },
		func() error { return h.RouteAdd(&sourced) },
		func() error { return h.RouteReplace(&routed) },
		func() error { return h.RouteDel(&routed) },
		func() error { return h.NeighSet(neigh) },
		func() error { return h.NeighDel(neigh) },
		func() error { return h.NeighSet(fdb) },
		func() error { return h.NeighDel(fdb) },
	}
}

// peer changes a container's end of a link, any.
func (c churn) peer(change func(netlink.Link) error) error {
	links, err := c.c.LinkList()
	if err != nil {
		return err
	}
	return change(links[c.random.IntN(len(links))])
}

// local is an address that a device has, any if dev is nil.
func (c churn) local(dev netlink.Link) *netlink.Addr {
	family := netlink.FAMILY_V4
	if c.subnet.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	addrs, err := c.n.AddrList(dev, family)
	if err != nil || len(addrs) == 0 {
		return &netlink.Addr{IPNet: &net.IPNet{}} // which the kernel refuses
	}
	return &addrs[c.random.IntN(len(addrs))]
}

func (c churn) address() string {
	prefix := "172.245.0."
	if c.subnet.Addr().Is6() {
		prefix = "2001:db8:42:1::"
	}
	return c.name(prefix, 4)
}

func (c churn) router() string {
	if c.subnet.Addr().Is6() {
		return "fe80::1"
	}
	return "10.0.0.1"
}

func (c churn) name(prefix string, n int) string {
	return fmt.Sprint(prefix, 1+c.random.IntN(n))
}
