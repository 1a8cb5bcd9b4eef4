// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"
	"github.com/bpfnet/bpfnet/test/lab"
)

// reported are the features of an uplink that a report tells of.
var reported = append([]string{gro, "tx-checksum-ip-generic", "tx-udp-segmentation", "tx-udp_tnl-segmentation"}, segmentation...)

// nic is an interface, and the namespace it is in.
type nic struct {
	in   lab.Namespace // "": that of the calling thread
	name string
}

func uplink(h *lab.Host) nic { return nic{h.NS, lab.Uplink} }

// towards is the interface of this host that sends to an address.
func towards(to netip.Addr) (n nic, err error) {
	routes, err := netlink.RouteGet(to.Unmap().AsSlice())
	if err == nil && len(routes) > 0 {
		var l netlink.Link
		if l, err = netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
			return nic{name: l.Attrs().Name}, nil
		}
	}
	return n, fmt.Errorf("find the interface towards %s: %w", to, err)
}

// features are those of the names given that the interface has.
func (n nic) features(names iter.Seq[string]) (map[string]bool, error) {
	have := map[string]bool{}
	err := n.do(func() error {
		all, err := ethtool.Features(n.name)
		for name := range names {
			if value, ok := all[name]; ok {
				have[name] = value
			}
		}
		return err
	})
	return have, err
}

// setFeatures changes features and sees to it that they have changed.
func (n nic) setFeatures(want map[string]bool) error {
	if len(want) == 0 {
		return nil
	}
	if err := n.do(func() error { return ethtool.Change(n.name, want) }); err != nil {
		return err
	}
	have, err := n.features(maps.Keys(want))
	if err == nil && !maps.Equal(have, want) {
		err = fmt.Errorf("set offloads of %s in %s: have %v, want %v", n.name, n.in, have, want)
	}
	return err
}

func (n nic) do(f func() error) error {
	enter := n.in.Do
	if n.in == "" {
		enter = func(f func() error) error { return f() }
	}
	if err := enter(f); err != nil {
		return fmt.Errorf("offloads of %s in %s: %w", n.name, n.in, err)
	}
	return nil
}

// withFeatures changes features of both uplinks of a site, and of the wire's ends
// of them. What it returns sets them back.
func (s *site) withFeatures(ofUplinks, ofWire map[string]bool) (restore func() error, err error) {
	var undo []func() error
	restore = func() (err error) {
		for _, f := range undo {
			err = errors.Join(err, f())
		}
		return err
	}
	set := func(n nic, want map[string]bool) error {
		before, failed := n.features(maps.Keys(want))
		if failed != nil {
			return failed
		}
		undo = append(undo, func() error { return n.setFeatures(before) })
		want = maps.Clone(want)
		maps.DeleteFunc(want, func(name string, _ bool) bool { _, known := before[name]; return !known }) // to an older kernel
		return n.setFeatures(want)
	}
	for _, h := range s.lab.Hosts {
		err = errors.Join(err, set(uplink(h), ofUplinks), set(nic{s.lab.Wire(), h.Name}, ofWire))
	}
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	return restore, nil
}
