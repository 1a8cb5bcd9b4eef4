// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// setting is one IPv6 sysctl of a device (Documentation/networking/ip-sysctl).
type setting struct{ name, value string }

// quiet keeps a device from speaking for itself: no link-local address, hence no
// duplicate address detection and no router solicitation, and nothing learnt
// from the routers of others.
func quiet(name string) []setting {
	if name == OverlayPeerName {
		return []setting{{"disable_ipv6", "1"}}
	}
	return []setting{{"addr_gen_mode", "1"}, {"accept_ra", "0"}} // 1: IN6_ADDR_GEN_MODE_NONE
}

// configureLink brings one end of the overlay to what want says, and up.
//
// A veth is NOARP at both ends: bpfnet0 then addresses its packets to itself
// (arp_constructor, net/ipv4/arp.c), so those that no program took are another
// host's to the peer and end there.
func (k kernel) configureLink(name string, want netlink.Link) error {
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
		{"silence IPv6 on", true, func() error { return ensureSettings(name, quiet(name)) }},
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

// ensureAddr gives the device its one address. Another /32 on it is that of an
// earlier lease and goes once the new one stands; any other is the admin's.
func (k kernel) ensureAddr(link netlink.Link, want netip.Prefix) error {
	addrs, err := rtnl.List("addresses", func() ([]netlink.Addr, error) { return k.AddrList(link, unix.AF_INET) })
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
		if err := k.AddrAdd(link, &netlink.Addr{IPNet: rtnl.IPNet(want)}); err != nil {
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

// EnsureForwarding makes the kernel route packets between interfaces
// (net.ipv4.ip_forward=1), as a node of an overlay has to. It reports whether
// that had to be changed.
func EnsureForwarding() (changed bool, err error) {
	return ensureSysctl("net/ipv4/ip_forward", "1")
}

func ensureSettings(device string, settings []setting) error {
	for _, s := range settings {
		_, err := ensureSysctl(filepath.Join("net/ipv6/conf", device, s.name), s.value)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ensureSysctl writes only what differs: /proc/sys may be read-only where the
// administrator has set things up. Below net/ it is the calling thread's
// network namespace.
func ensureSysctl(name, value string) (changed bool, err error) {
	path := filepath.Join("/proc/sys", name)
	has, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	if string(bytes.TrimSpace(has)) == value {
		return false, nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return false, fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return true, nil
}
