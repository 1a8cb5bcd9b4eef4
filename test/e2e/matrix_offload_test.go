// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"

	"github.com/bpfnet/bpfnet/test/lab"
)

// offload is a setting of the devices' features.
type offload struct {
	name string
	off  []devices // those without
	gro  bool      // of what comes in by the uplinks
}

// devices are a kind of device of the lab.
type devices string

const (
	uplinks    devices = "uplinks"
	wires      devices = "wires" // the uplinks' other ends
	containers devices = "containers"
	nestedLink devices = "nested" // from the router to the nested container
)

var offloads = []offload{
	{name: "all offloads"},
	{name: "containers without", off: []devices{containers}},
	{name: "uplinks without", off: []devices{uplinks, nestedLink}},
	{name: "uplinks without but for GRO", off: []devices{uplinks, wires, nestedLink}, gro: true},
	{name: "none", off: []devices{containers, uplinks, wires, nestedLink}},
}

func (o offload) without(d devices) bool { return slices.Contains(o.off, d) }

// of are the devices of a kind.
func (m *matrix) of(d devices) (all []iface) {
	router := m.Hosts[1].Containers[1].NS
	if d == nestedLink {
		return []iface{{router, "eth1"}, {m.behind.NS, "eth0"}}
	}
	for _, h := range m.Hosts {
		switch d {
		case uplinks:
			all = append(all, iface{h.NS, lab.Uplink})
		case wires:
			all = append(all, iface{m.Wire(), h.Name})
		case containers:
			for _, c := range h.Containers {
				all = append(all, iface{c.NS, "eth0"})
			}
		}
	}
	return all
}

// setOffloads gives all devices the features of a setting.
func (m *matrix) setOffloads(t *testing.T, o offload) {
	t.Helper()
	for _, d := range []devices{uplinks, wires, containers, nestedLink} {
		on := !o.without(d)
		for _, i := range m.of(d) {
			gro := o.gro && d == uplinks
			noError(t, setFeatures(i, map[string]bool{
				"tx-checksum-ip-generic": on, "tx-checksum-sctp": on, "tx-scatter-gather": on, "tx-generic-segmentation": on,
				"tx-tcp-segmentation": on, "tx-tcp6-segmentation": on, "tx-tcp-ecn-segmentation": on, "tx-tcp-mangleid-segmentation": on,
				"tx-udp-segmentation": on, "rx-checksum": on || gro, "rx-gro": gro, "rx-udp-gro-forwarding": gro,
			}))
		}
	}
}

// setFeatures changes features of a device, and looks whether they have changed.
func setFeatures(i iface, want map[string]bool) error {
	return i.ns.Do(func() error {
		if err := ethtool.Change(i.name, want); err != nil {
			return fmt.Errorf("change features of %s in %s: %w", i.name, i.ns, err)
		}
		have, err := ethtool.Features(i.name)
		for name, on := range want {
			if have[name] != on {
				err = errors.Join(err, fmt.Errorf("%s of %s in %s is %v", name, i.name, i.ns, have[name]))
			}
		}
		return err
	})
}
