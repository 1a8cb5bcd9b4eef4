// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"slices"
)

// RemoveOthers removes the devices of ours that are none of keep, which other
// modes or another family left, and flanneld's ipip device, by which stale routes
// of its own may lead. keep is what [EnsureOverlay] has returned for each family.
func RemoveOthers(keep ...Device) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	return errors.Join(k.removeDevices(keep...), k.removeFlannelIPIP())
}

// RemoveRoutes removes the routes of a family that the node's network has no
// more: IPv6's where v6, else IPv4's.
func RemoveRoutes(v6 bool) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	f := ipv4
	if v6 {
		f = ipv6
	}
	return k.removeRoutes(f)
}

// Cleanup removes our devices and all routes of ours; neighbours and FDB
// entries go with the device. Nothing there is no error.
func Cleanup() error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	var errs []error
	for _, f := range families {
		errs = append(errs, k.removeRoutes(f))
	}
	return errors.Join(append(errs, k.removeDevices())...)
}

func (k kernel) removeRoutes(f family) error {
	t := newTables()
	errs := []error{k.listRoutes(f, 0, t)}
	for r := range t.routes {
		errs = append(errs, k.delRoute(r))
	}
	return errors.Join(errs...)
}

func (k kernel) removeDevices(keep ...Device) error {
	var errs []error
	for name := range devices {
		if slices.ContainsFunc(keep, func(d Device) bool { return d.Name == name }) {
			continue
		}
		link, err := k.overlayLink(name)
		errs = append(errs, err)
		if link != nil {
			errs = append(errs, removal("device", deviceOf(link), k.LinkDel(link)))
		}
	}
	return errors.Join(errs...)
}
