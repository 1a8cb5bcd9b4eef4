// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// links makes links and routes in one namespace; the first error stays and
// makes the rest do nothing.
type links struct {
	ns  Namespace
	h   *netlink.Handle
	err error
}

// configure runs f with the links of the namespace.
func (n Namespace) configure(f func(l *links)) error {
	fd, err := netns.GetFromName(string(n))
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", n, err)
	}
	defer fd.Close() //nolint:errcheck // read only
	h, err := netlink.NewHandleAt(fd, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket in %s: %w", n, err)
	}
	defer h.Close()
	l := &links{ns: n, h: h}
	f(l)
	return l.err
}

func (l *links) do(what string, f func() error) {
	if l.err != nil {
		return
	}
	if err := f(); err != nil {
		l.err = fmt.Errorf("%s in %s: %w", what, l.ns, err)
	}
}

func (l *links) onLink(what, name string, f func(netlink.Link) error) {
	l.do(what+" "+name, func() error {
		link, err := l.h.LinkByName(name)
		if err != nil {
			return err
		}
		return f(link)
	})
}

// bridge makes a bridge, up. Without STP its ports forward at once, without
// multicast snooping it sends nothing of its own.
func (l *links) bridge(name string, mtu int) {
	l.do("add bridge "+name, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		return l.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: new(bool)})
	})
	l.up(name)
}

// veth is a veth pair: one end here, the other in another namespace.
type veth struct {
	name     string
	peer     string
	peerNS   Namespace
	mtu      int
	hardware net.HardwareAddr // of this end; nil: the kernel chooses
	bridge   string           // this end's; "" for none
}

// veth makes the pair, both ends up and running, and with them the bridge.
func (l *links) veth(v veth) {
	l.do("add veth "+v.name, func() error {
		peerNS, err := netns.GetFromName(string(v.peerNS))
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", v.peerNS, err)
		}
		defer peerNS.Close() //nolint:errcheck // read only
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = v.name, v.mtu, v.hardware
		return l.h.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: v.peer, PeerMTU: uint32(v.mtu), PeerNamespace: netlink.NsFd(peerNS),
		})
	})
	if v.bridge != "" {
		l.onLink("join bridge "+v.bridge+":", v.name, func(link netlink.Link) error {
			master, err := l.h.LinkByName(v.bridge)
			if err != nil {
				return err
			}
			return l.h.LinkSetMaster(link, master)
		})
	}
	l.up(v.name)
	if l.err == nil {
		l.err = v.peerNS.configure(func(p *links) {
			p.up(v.peer)
			p.running(v.peer)
		})
	}
	l.running(v.name)
	if v.bridge != "" {
		l.running(v.bridge)
	}
}

func (l *links) up(name string) {
	l.onLink("set up", name, func(link netlink.Link) error { return l.h.LinkSetUp(link) })
}

const runningTimeout = Patience * 20 * time.Second

// running waits until the link carries packets, which the kernel sees to some
// time after both ends are up (net/core/link_watch.c): until then it drops them.
func (l *links) running(name string) {
	l.do("wait for "+name, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), runningTimeout)
		defer cancel()
		return Until(ctx, "link is up", func() (bool, error) {
			link, err := l.h.LinkByName(name)
			return err == nil && link.Attrs().OperState == netlink.OperUp, err
		})
	})
}

// remove deletes a link; that there is none is no error.
func (l *links) remove(name string) {
	l.do("remove "+name, func() error {
		link, err := l.h.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err != nil {
			return err
		}
		return l.h.LinkDel(link)
	})
}

func (l *links) address(name string, p netip.Prefix) {
	l.onLink("add address "+p.String()+" to", name, func(link netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // usable at once
		}
		return l.h.AddrAdd(link, a)
	})
}

// route adds a route by way of gateway; an invalid gateway stands for a
// destination on the link itself.
func (l *links) route(name string, dst netip.Prefix, gateway netip.Addr) {
	l.onLink("add route to "+dst.String()+" dev", name, func(link netlink.Link) error {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Scope: netlink.SCOPE_LINK}
		if dst.Addr().Is6() {
			r.Scope = netlink.SCOPE_UNIVERSE // IPv6 has no other
		}
		if gateway.IsValid() {
			r.Gw, r.Scope = gateway.AsSlice(), netlink.SCOPE_UNIVERSE
		}
		return l.h.RouteAdd(r)
	})
}

// neighbour adds a permanent neighbour.
func (l *links) neighbour(name string, addr netip.Addr, mac net.HardwareAddr) {
	l.onLink("add neighbour "+addr.String()+" dev", name, func(link netlink.Link) error {
		return l.h.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac,
		})
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
