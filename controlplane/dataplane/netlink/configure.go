// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// quiet keeps a device from speaking for itself: no link-local address, hence no
// duplicate address detection and no router solicitation, and nothing learnt
// from the routers of others. In an IPv6 network it has IPv6 whatever the host's default.
//
// A kernel without IPv6 needs none of it.
func quiet(name string, f family) error {
	settings := []setting{ofDevice(name, "addr_gen_mode", "1"), ofDevice(name, "accept_ra", "0")} // 1: IN6_ADDR_GEN_MODE_NONE
	switch {
	case name == OverlayPeerName:
		settings = []setting{ofDevice(name, "disable_ipv6", "1")}
	case f.number == unix.AF_INET6:
		settings = append(settings, ofDevice(name, "disable_ipv6", "0"))
	}
	_, err := ensureSettings(settings...)
	if errors.Is(err, fs.ErrNotExist) && f.number == unix.AF_INET {
		return nil
	}
	return err
}

// configureLink brings one end of the overlay to what want says, and up.
//
// A veth is NOARP at both ends: bpfnet0 then addresses its packets to itself
// (arp_constructor, net/ipv4/arp.c), so those that no program took are another
// host's to the peer and end there.
func (k kernel) configureLink(name string, want netlink.Link, s topology.Self) error {
	link, err := k.LinkByName(name)
	if err != nil {
		return fmt.Errorf("get link %s: %w", name, err)
	}
	has, wants := link.Attrs(), want.Attrs()
	steps := []struct {
		what string
		need bool
		do   func() error
	}{
		{"silence IPv6 on", true, func() error { return quiet(name, familyOf(s.Subnet.Addr())) }},
		{"set MTU of", has.MTU != wants.MTU, func() error { return k.setMTU(link, wants.MTU) }},
		{"set MAC of", name == wants.Name && wants.HardwareAddr != nil && !bytes.Equal(has.HardwareAddr, wants.HardwareAddr),
			func() error { return k.LinkSetHardwareAddr(link, wants.HardwareAddr) }},
		{"set NOARP on", want.Type() == "veth" && has.RawFlags&unix.IFF_NOARP == 0,
			func() error { return k.LinkSetARPOff(link) }},
		{"set up", has.Flags&net.FlagUp == 0, func() error { return k.LinkSetUp(link) }},
	}
	for _, s := range steps {
		if !s.need {
			continue
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("%s %s: %w", s.what, name, err)
		}
	}
	return nil
}

// setMTU fails where a tunnel packet of that size would not fit the uplink.
func (k kernel) setMTU(link netlink.Link, mtu int) error {
	if err := k.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("%d does not fit the uplink, lower MTU in the network's Backend config: %w", mtu, err)
	}
	return nil
}

// ensureAddr gives the device its one address of a family. Another single one on it
// is that of an earlier lease and goes once the new one stands; any other is the admin's.
func (k kernel) ensureAddr(link netlink.Link, want netip.Prefix) error {
	f := familyOf(want.Addr())
	addrs, err := rtnl.List("addresses", func() ([]netlink.Addr, error) { return k.AddrList(link, f.number) })
	if err != nil {
		return err
	}
	stale := map[netip.Prefix]netlink.Addr{}
	for _, a := range addrs {
		if p := rtnl.Prefix(a.IPNet); p.IsSingleIP() {
			stale[p] = a
		}
	}
	if _, has := stale[want]; !has {
		if err := k.AddrAdd(link, &netlink.Addr{IPNet: rtnl.IPNet(want), Flags: f.address}); err != nil {
			return fmt.Errorf("add address %s to %s: %w", want, link.Attrs().Name, err)
		}
	}
	delete(stale, want)
	var errs []error
	for p, a := range stale {
		errs = append(errs, removal("address", p, k.AddrDel(link, &a)))
	}
	return errors.Join(errs...)
}
