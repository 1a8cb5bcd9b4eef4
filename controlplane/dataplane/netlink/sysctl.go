// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// EnsureForwarding makes the kernel route packets of s's family between
// interfaces, as a node of an overlay has to. It returns the sysctls that it
// changed, as "net/ipv4/ip_forward=1".
//
// A router of IPv6 does not listen to routers (accept_ra=1,
// Documentation/networking/ip-sysctl), and forgets what they said: a node that
// has its default route from one would lose it. So the uplink, and what else has
// routes from them, is told to go on listening (2) before.
func EnsureForwarding(s topology.Self) (changed []string, err error) {
	if s.Subnet.Addr().Is4() {
		return ensureSettings(setting{"net/ipv4/ip_forward", "1"})
	}
	forwarding := setting{"net/ipv6/conf/all/forwarding", "1"}
	on, err := forwarding.is()
	if on || err != nil {
		return nil, err
	}
	listeners, err := routerListeners(s.Uplink)
	if err != nil {
		return nil, err
	}
	return ensureSettings(append(listeners, forwarding)...)
}

// routerListeners are the settings by which interfaces that listen to routers go on to.
func routerListeners(uplink int) (settings []setting, err error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	routes, err := rtnl.List("routes", func() ([]netlink.Route, error) {
		return k.RouteListFiltered(unix.AF_INET6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, err
	}
	ifindexes := map[int]bool{uplink: true}
	for _, r := range routes {
		ifindexes[r.LinkIndex] = true
	}
	for _, ifindex := range slices.Sorted(maps.Keys(ifindexes)) {
		link, err := k.LinkByIndex(ifindex)
		if err != nil {
			return nil, fmt.Errorf("get link %d: %w", ifindex, err)
		}
		acceptRA := func(value string) setting { return ofDevice(link.Attrs().Name, "accept_ra", value) }
		listens, err := acceptRA("1").is()
		if err != nil {
			return nil, err
		}
		if listens {
			settings = append(settings, acceptRA("2"))
		}
	}
	return settings, nil
}

// setting is a sysctl and its value. Below net/ it is the calling thread's
// network namespace.
type setting struct{ name, value string }

// ofDevice is an IPv6 setting of a device.
func ofDevice(device, name, value string) setting {
	return setting{filepath.Join("net/ipv6/conf", device, name), value}
}

func (s setting) String() string { return s.name + "=" + s.value }

func (s setting) path() string { return filepath.Join("/proc/sys", s.name) }

func (s setting) is() (bool, error) {
	has, err := os.ReadFile(s.path())
	if err != nil {
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	return string(bytes.TrimSpace(has)) == s.value, nil
}

// ensure writes only what differs: /proc/sys may be read-only where the
// administrator has set things up.
func (s setting) ensure() (changed bool, err error) {
	if is, err := s.is(); is || err != nil {
		return false, err
	}
	if err := os.WriteFile(s.path(), []byte(s.value), 0); err != nil {
		return false, fmt.Errorf("set sysctl to %s: %w", s.value, err)
	}
	return true, nil
}

// ensureSettings returns those that it changed.
func ensureSettings(settings ...setting) (changed []string, err error) {
	for _, s := range settings {
		wrote, err := s.ensure()
		if err != nil {
			return changed, err
		}
		if wrote {
			changed = append(changed, s.String())
		}
	}
	return changed, nil
}
