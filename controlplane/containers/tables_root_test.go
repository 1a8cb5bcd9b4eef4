// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
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
	seed := rand.Uint64()
	n, c := newSpace(t), newSpace(t)
	w := watcher{machine: newMachine(subnet, nil), buffer: receiveBuffer}
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
		w.machine.reset(listed)
		churn := churn{n, c, rand.New(rand.NewPCG(seed, 0))}
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
			if err := mirror(&w, socket); err != nil {
				return fmt.Errorf("seed %d, round %d: %w", seed, round, err)
			}
		}
		return nil
	}))
}

// mirror takes in notifications until the tables are as listed. The kernel tells
// of a carrier up to a second late, so a first difference may be none.
func mirror(w *watcher, socket *nl.NetlinkSocket) error {
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
		diff := cmp.Diff(listed, w.machine.tables, mirrored...)
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
	return c.changes(veth, br)[c.random.IntN(20)]()
}

func (c churn) changes(veth, br netlink.Link) []func() error {
	h, mac := c.n.Handle, net.HardwareAddr{2, 0, 0, 0, 0, byte(c.random.IntN(4))}
	addr := ipAddr(c.name("172.245.0.", 4) + "/24")
	dev := []netlink.Link{veth, br}[c.random.IntN(2)]
	route := hostRouteOf(veth.Attrs().Index, c.name("172.245.0.", 4))
	route.Priority = c.random.IntN(2)
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
		func() error { return h.RouteAppend(route) },
		func() error { return h.RouteDel(route) },
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

func (c churn) name(prefix string, n int) string {
	return fmt.Sprint(prefix, 1+c.random.IntN(n))
}
