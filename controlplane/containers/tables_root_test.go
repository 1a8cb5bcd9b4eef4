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
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestTablesMirrorTheKernel makes random changes to a real namespace and holds
// that the tables kept by notifications are those that a listing shows, the
// kernel's silent flushes included.
func TestTablesMirrorTheKernel(t *testing.T) {
	for _, subnet := range []netip.Prefix{subnet, subnet6} {
		t.Run(subnet.String(), func(t *testing.T) { mirrorsTheKernel(t, subnet) })
	}
}

func mirrorsTheKernel(t *testing.T, subnet netip.Prefix) {
	seed := rand.Uint64()
	n, c := newSpace(t), newSpace(t)
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
		timeout := unix.NsecToTimeval(int64(20 * time.Millisecond))
		if err = socket.SetReceiveTimeout(&timeout); err != nil {
			return err
		}
		listed, err := list(context.Background(), subnet)
		if err != nil {
			return err
		}
		w.machines[0].reset(listed)
		churn := churn{n, c, subnet, rand.New(rand.NewPCG(seed, 0))}
		for round := range 20 {
			done := 0
			for range 50 {
				if churn.step() == nil {
					done++
				}
			}
			if done < 10 {
				t.Errorf("seed %d: the kernel took only %d of 50 changes", seed, done)
			}
			if err := mirror(&w, socket, subnet); err != nil {
				return fmt.Errorf("seed %d, round %d: %w", seed, round, err)
			}
		}
		return nil
	}))
}

// mirror takes in notifications until the tables are as listed. The kernel tells
// of a carrier up to a second late, so a first difference may be none.
func mirror(w *watcher, socket *nl.NetlinkSocket, subnet netip.Prefix) error {
	for deadline := time.Now().Add(patience); ; {
		msgs, _, err := socket.Receive()
		for ; err == nil; msgs, _, err = socket.Receive() {
			w.apply(msgs)
		}
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		listed, err := list(context.Background(), subnet)
		if err != nil {
			return err
		}
		diff := cmp.Diff(listed, w.machines[0].tables, mirrored...)
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
	addr := ipAddr(fmt.Sprintf("%s/%d", c.address(), c.subnet.Bits()))
	dev := []netlink.Link{veth, br}[c.random.IntN(2)]
	route := hostRouteOf(veth.Attrs().Index, c.address())
	route.Priority = c.random.IntN(2)
	sourced := *route
	sourced.Src = net.ParseIP(c.address())
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
		func() error { return h.AddrDel(dev, addr) },
		func() error { return h.RouteAdd(route) },
		func() error { return h.RouteReplace(route) },
		func() error { return c.append(route) },
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

// append is for IPv4: of two routes of IPv6 that differ in their device alone, one may
// be made to be the other, and then stands there twice, which no notification says.
func (c churn) append(route *netlink.Route) error {
	if c.subnet.Addr().Is6() {
		return errors.New("not done")
	}
	return c.n.RouteAppend(route)
}

// peer changes a container's end of a link, any.
func (c churn) peer(change func(netlink.Link) error) error {
	links, err := c.c.LinkList()
	if err != nil {
		return err
	}
	return change(links[c.random.IntN(len(links))])
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
