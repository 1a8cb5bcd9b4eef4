// SPDX-License-Identifier: Apache-2.0

//go:build root && vm

package netlink

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// The kernel's ipip device is made once, serves every peer, and gives way to the programs' device.
func TestIPIPDevice(t *testing.T) {
	s := host1(t, topology.EncapIPIP)
	dev := carrierDevice(t, s, Kernel)
	if dev.Name != IPIPName {
		t.Fatalf("device %s, want %s", dev.Name, IPIPName)
	}
	if seen := events(t, func() { carrierDevice(t, s, Kernel) }); len(seen) > 0 {
		t.Errorf("the same again wrote %q", seen)
	}
	state := topology.State{Self: s, Peers: []topology.Peer{
		peer(2, topology.EncapIPIP, s.Uplink), peer(3, topology.EncapIPIP, s.Uplink),
	}}
	if problems, err := new(View).Apply(state, dev); err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	want := []string{
		"172.246.0.0/24 via 192.168.32.246 dev bpfnet-ipip onlink",
		"172.247.0.0/24 via 192.168.32.247 dev bpfnet-ipip onlink",
	}
	if diff := cmp.Diff(want, ip(t, "ip", "route", "show", "proto", "98")); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	other := carrierDevice(t, s, Programs)
	if problems, err := new(View).Apply(state, other); err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	if err := RemoveOthers(other); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(IPIPName); err == nil {
		t.Errorf("%s is still there", IPIPName)
	}
}

// flannel.ipip as flanneld 0.28.4 makes it (pkg/backend/ipip/ipip.go) becomes ours while it is up.
func TestTakeOverIPIPFromFlannel(t *testing.T) {
	renamesLive(t)
	s := host1(t, topology.EncapIPIP)
	ip(t, "ip", "link", "add", "flannel.ipip", "type", "ipip", "local", s.Node.String(), "nopmtudisc")
	ip(t, "ip", "link", "set", "flannel.ipip", "mtu", "1480", "up")
	before := nstest.Link(t, "flannel.ipip").Attrs().Index
	if dev := carrierDevice(t, s, Kernel); dev.Name != IPIPName || dev.Ifindex != before {
		t.Errorf("device %+v, want %s with number %d", dev, IPIPName, before)
	}
	if err := HandOver(); err != nil {
		t.Fatal(err)
	}
	if now := nstest.Link(t, "flannel.ipip").Attrs().Index; now != before {
		t.Errorf("flannel.ipip has number %d, want %d", now, before)
	}
}
