// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"maps"

	"github.com/safchain/ethtool"

	"github.com/bpfnet/bpfnet/test/lab"
)

// reported are the features of an uplink that a report tells of.
var reported = append([]string{gro, "tx-checksum-ip-generic", "tx-udp-segmentation", "tx-udp_tnl-segmentation"}, segmentation...)

// features are those of a host's uplink, of the names given.
func features(h *lab.Host, names []string) (map[string]bool, error) {
	have := map[string]bool{}
	err := onUplink(h, func(e *ethtool.Ethtool) error {
		all, err := e.Features(lab.Uplink)
		for _, name := range names {
			if value, ok := all[name]; ok {
				have[name] = value
			}
		}
		return err
	})
	return have, err
}

// setFeatures changes features of a host's uplink and sees to it that they have changed.
func setFeatures(h *lab.Host, want map[string]bool) error {
	if len(want) == 0 {
		return nil
	}
	err := onUplink(h, func(e *ethtool.Ethtool) error { return e.Change(lab.Uplink, want) })
	if err != nil {
		return err
	}
	var names []string
	for name := range want {
		names = append(names, name)
	}
	have, err := features(h, names)
	if err == nil && !maps.Equal(have, want) {
		err = fmt.Errorf("set offloads of %s on %s: have %v, want %v", lab.Uplink, h.Name, have, want)
	}
	return err
}

func onUplink(h *lab.Host, f func(*ethtool.Ethtool) error) error {
	err := h.NS.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return f(e)
	})
	if err != nil {
		return fmt.Errorf("offloads of %s on %s: %w", lab.Uplink, h.Name, err)
	}
	return nil
}

// withFeatures changes features of both uplinks of a site. What it returns sets
// them back.
func (s *site) withFeatures(want map[string]bool) (restore func() error, err error) {
	var undo []func() error
	restore = func() (err error) {
		for _, f := range undo {
			err = errors.Join(err, f())
		}
		return err
	}
	var names []string
	for name := range want {
		names = append(names, name)
	}
	for _, h := range s.lab.Hosts {
		before, err := features(h, names)
		if err == nil {
			undo = append(undo, func() error { return setFeatures(h, before) })
			err = setFeatures(h, want)
		}
		if err != nil {
			return nil, errors.Join(err, restore())
		}
	}
	return restore, nil
}
