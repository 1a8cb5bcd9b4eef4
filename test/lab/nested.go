// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nestedByte is the last byte of a nested container's address.
const nestedByte = 200

// Nest makes a container behind a container, which becomes a router: its "eth1"
// leads to the new one's "eth0". For the new one's addresses, of the host's
// subnet, the router answers on its own eth0 (proxy ARP, RFC 1027; its like in
// RFC 4861, 7.2.8), so its host takes them for more addresses of the router.
// It is none of the host's Containers.
func (h *Host) Nest(router *Container) (*Container, error) {
	c := &Container{Name: router.Name + "n", Number: nestedByte, NS: router.NS + "-n", Veth: "eth1"}
	if h.Subnet.IsValid() {
		c.Addr = nth(h.Subnet, nestedByte)
	}
	if h.Subnet6.IsValid() {
		c.Addr6 = nth(h.Subnet6, nestedByte)
	}
	if err := c.NS.create(h.lab.Options.hasIPv6()); err != nil {
		return nil, err
	}
	err := router.NS.configure(func(l *links) {
		l.veth(veth{name: c.Veth, peer: "eth0", peerNS: c.NS, mtu: h.lab.Options.ContainerMTU()})
	})
	for _, f := range h.lab.Options.Inner.Each() {
		err = errors.Join(err, nest(router, c, c.In(f)))
	}
	if err != nil {
		return nil, fmt.Errorf("nest a container in %s: %w", router.NS, err)
	}
	return c, nil
}

// nest gives the nested container an address, and the two routes to each other.
func nest(router, c *Container, addr netip.Addr) error {
	local, all, settings := netip.MustParseAddr(linkLocalGateway), everything, map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0/proxy_arp": "1",
		"net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/eth0/send_redirects": "0",
	}
	if addr.Is6() {
		local, all = netip.MustParseAddr("fe80::1"), everything6
		// Of all, or else it answers what goes to everybody alone, and not its host, which asks it itself now
		// and then (ip6_forward() in net/ipv6/ip6_output.c).
		settings = map[string]string{"net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/all/proxy_ndp": "1"}
	}
	err := router.NS.Do(func() (err error) {
		for name, value := range settings {
			err = errors.Join(err, setSysctls(value, name))
		}
		return err
	})
	if err != nil {
		return err
	}
	err = router.NS.configure(func(l *links) {
		l.address(c.Veth, netip.PrefixFrom(local, local.BitLen()))
		l.route(c.Veth, netip.PrefixFrom(addr, addr.BitLen()), netip.Addr{})
		if addr.Is6() {
			l.proxyNeighbour("eth0", addr)
		}
	})
	if err != nil {
		return err
	}
	return c.NS.configure(func(l *links) {
		l.address("eth0", netip.PrefixFrom(addr, addr.BitLen()))
		l.route("eth0", netip.PrefixFrom(local, local.BitLen()), netip.Addr{})
		l.route("eth0", all, local)
	})
}

// proxyNeighbour has the link answer neighbour solicitations for an address.
func (l *links) proxyNeighbour(name string, addr netip.Addr) {
	l.onLink("proxy "+addr.String()+" on", name, func(link netlink.Link) error {
		return l.h.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_INET6, Flags: netlink.NTF_PROXY, IP: addr.AsSlice(),
		})
	})
}
