// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// verifyEvery is how often the kernel makes sure of a neighbour that it sends
// to, on the average (base_reachable_time, Documentation/networking/ip-sysctl).
const verifyEvery = 30 * time.Second

// verify, when it is time, has the kernel ask the containers for their
// addresses, as it would if it sent to them itself. Without that it would not
// find out that an address has moved to a container that did not announce it.
func (w *watcher) verify() {
	if time.Now().Before(w.verifyAt) {
		return
	}
	w.verifyAt = time.Now().Add(w.every)
	for _, m := range w.machines {
		for addr, p := range m.endpoints {
			if !m.spare(addr, p) {
				w.use(m, addr, p.dev)
			}
		}
	}
}

// ask has the kernel ask at once for some addresses.
//
// They are endpoints that have just ceased to answer, for what it asks from time to time goes to the MAC that it knows, and is
// not answered by a container that proxies for one behind it in IPv6 (ip6_forward() in net/ipv6/ip6_output.c
// sends it on, where it is no neighbour discovery any more, unless net.ipv6.conf.all.proxy_ndp is set), nor by
// one whose address has moved. The next packet would have it asked for just so, of all the link.
//
// And they are containers whose gateway has another MAC, which the request tells them.
func (w *watcher) ask() {
	for _, m := range w.machines {
		for addr, dev := range m.ask {
			w.use(m, addr, dev)
		}
		clear(m.ask)
	}
}

// use has the kernel treat a neighbour as if it had a packet for it (NTF_USE,
// neigh_add in net/core/neighbour.c). A permanent one would cease to be one.
func (w *watcher) use(m *machine, addr netip.Addr, ifindex int) {
	if m.neighs[addr][ifindex].fixed || !m.asks(ifindex) {
		return
	}
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: ifindex, IP: addr.AsSlice(), Flags: netlink.NTF_USE, State: netlink.NUD_NONE,
	})
	if err != nil { // mostly a link that is just going
		w.log.Debug("cannot have a container asked for its address", "address", addr, "error", err)
	}
}

// asks reports whether the kernel can ask for an address on the device. In IPv6 it
// asks from a link-local address; without one it asks nobody, and takes that for no answer
// (ndisc_ns_create in net/ipv6/ndisc.c).
func (m *machine) asks(ifindex int) bool {
	return m.subnet.Addr().Is4() || m.hasAddr(func(a localAddr) bool {
		return a.ifindex == ifindex && a.addr.IsLinkLocalUnicast()
	})
}
