// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// addTUN stands in for package udptun, which makes the device.
func addTUN(t *testing.T) {
	t.Helper()
	ip(t, "ip", "tuntap", "add", "dev", TUNName, "mode", "tun")
}

func carrierDevice(t *testing.T, s topology.Self, c Carrier) Device {
	t.Helper()
	dev, err := EnsureOverlay(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// In a udp network each carrier has a device of its own: the one that is to be
// comes up beside the one that is, the routes move without a gap, and what was goes.
func TestCarrierChangesDevices(t *testing.T) {
	s := host1(t, topology.EncapUDP)
	state := topology.State{Self: s, Peers: []topology.Peer{peer(2, topology.EncapUDP, s.Uplink)}}
	addTUN(t)
	for _, test := range []struct {
		carrier Carrier
		name    string
		others  []string
	}{
		{Programs, OverlayName, []string{TUNName}},
		{Kernel, TUNName, []string{OverlayName, OverlayPeerName}},
		{Programs, OverlayName, []string{TUNName}},
	} {
		dev := carrierDevice(t, s, test.carrier)
		if dev.Name != test.name {
			t.Fatalf("device %s, want %s", dev.Name, test.name)
		}
		if seen := events(t, func() { carrierDevice(t, s, test.carrier) }); len(seen) > 0 {
			t.Errorf("the same again wrote:\n%s", strings.Join(seen, "\n"))
		}
		if problems, err := new(View).Apply(state, dev); err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		for range 2 {
			if err := RemoveOthers(dev); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range test.others {
			if _, err := netlink.LinkByName(name); err == nil {
				t.Errorf("with %s in place, %s is still there", test.name, name)
			}
		}
		want := "172.246.0.0/24 via 192.168.32.246 dev " + test.name + " onlink"
		got := strings.Join(ip(t, "ip", "route", "show", "proto", "98"), "; ")
		if diff := cmp.Diff(want, strings.TrimSuffix(got, " linkdown")); diff != "" { // nobody reads from the TUN device
			t.Errorf("routes (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"172.245.0.0/32"}, addrsOf(t, test.name, netlink.FAMILY_V4)); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
		if got := addrsOf(t, test.name, netlink.FAMILY_V6); got != nil {
			t.Errorf("%s has IPv6 addresses %v", test.name, got)
		}
		if test.carrier == Programs {
			addTUN(t) // for the next round
		}
	}
	if err := Cleanup(); err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		if _, err := netlink.LinkByName(name); err == nil {
			t.Errorf("after Cleanup %s is still there", name)
		}
	}
}

// A vxlan device serves both carriers.
func TestCarriersShareVXLAN(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	if programs, kernel := carrierDevice(t, s, Programs), carrierDevice(t, s, Kernel); programs != kernel {
		t.Errorf("devices %+v and %+v", programs, kernel)
	}
}

func TestCarrierRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		encap   topology.Encap
		prepare func(*testing.T)
		want    string
	}{
		"no TUN device": {topology.EncapUDP, func(*testing.T) {},
			"set up bpfnet-tun: it is not there: it is made by what copies its packets"},
		"another's device": {topology.EncapUDP, func(t *testing.T) { nstest.AddVeth(t, TUNName, 1500) },
			"bpfnet-tun is a veth device that bpfnet did not make: rename or remove it"},
		"another's ipip device": {topology.EncapIPIP, func(t *testing.T) { ip(t, "ip", "link", "add", IPIPName, "type", "bridge") },
			"bpfnet-ipip is a bridge device that bpfnet did not make: rename or remove it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := host1(t, test.encap)
			test.prepare(t)
			if _, err := EnsureOverlay(s, Kernel); err == nil || err.Error() != test.want {
				t.Errorf("got error %v, want %s", err, test.want)
			}
		})
	}
}
