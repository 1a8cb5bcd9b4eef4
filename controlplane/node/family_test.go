// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
)

// TestFamilies holds what a node is in each family of a network, on an uplink
// of MTU 1500, by the addresses that it has.
func TestFamilies(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.168.32.245"), netip.MustParseAddr("2001:db8::245")
	both := underlay.Uplink{MTU: 1500, Addr: v4, Addr6: v6}
	config := func(families, backend string) string {
		return fmt.Sprintf(`{%s,"Backend":{"Type":%q}}`, families, backend)
	}
	const four, six = `"Network":"172.244.0.0/14"`, `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"`
	const dual = `"EnableIPv6":true,"Network":"172.244.0.0/14","IPv6Network":"fc00::/48"`
	for _, test := range []struct {
		config string
		uplink underlay.Uplink
		want   []string // network, address, the other one, MTU
		mtu    int      // in subnet.env
	}{
		{config(four, "vxlan"), both, []string{"172.244.0.0/14 192.168.32.245 - 1450"}, 1450},
		{config(six, "vxlan"), both, []string{"fc00::/48 2001:db8::245 - 1430"}, 1430},
		{config(dual, "vxlan"), both, []string{"172.244.0.0/14 192.168.32.245 - 1450", "fc00::/48 2001:db8::245 - 1430"}, 1450},
		{config(dual, "host-gw"), both, []string{"172.244.0.0/14 192.168.32.245 - 1500", "fc00::/48 2001:db8::245 - 1500"}, 1500},
		{config(dual, "ipip"), both, []string{"172.244.0.0/14 192.168.32.245 2001:db8::245 1460", "fc00::/48 2001:db8::245 192.168.32.245 1460"}, 1460},
		{config(dual, "ipip"), underlay.Uplink{MTU: 1500, Addr: v4}, []string{"172.244.0.0/14 192.168.32.245 - 1480", "fc00::/48 - 192.168.32.245 1480"}, 1480},
		{config(four, "ipip"), underlay.Uplink{MTU: 1500, Addr6: v6}, []string{"172.244.0.0/14 - 2001:db8::245 1460"}, 1460},
	} {
		l, _ := testLoop(t, test.config)
		l.uplink = test.uplink
		l.families = l.newFamilies()
		text := func(a netip.Addr) string {
			if !a.IsValid() {
				return "-"
			}
			return a.String()
		}
		var got []string
		for _, f := range l.families {
			got = append(got, fmt.Sprintf("%s %s %s %d", f.prefix, text(f.self.Node), text(f.self.Other), f.self.MTU))
		}
		if diff := cmp.Diff(test.want, got); diff != "" || l.mtu() != test.mtu {
			t.Errorf("%s: MTU of subnet.env %d, want %d; families (-want +got):\n%s", test.config, l.mtu(), test.mtu, diff)
		}
	}
}

const dualConfig = `{"EnableIPv6":true,"Network":"172.244.0.0/14","IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}`

// TestInputsOfBothFamilies: one lease is one in each family, with what it says of that.
func TestInputsOfBothFamilies(t *testing.T) {
	l, _ := testLoop(t, dualConfig)
	lease := storeLease("172.246.0.0-24&fc00:0:0:2::-64", "10.0.0.1", 7)
	lease.Subnet6, lease.PublicIPv6 = netip.MustParsePrefix("fc00:0:0:2::/64"), netip.MustParseAddr("2001:db8::1")
	lease.MACv6, lease.ZeroChecksum6 = topology.MAC{2, 0, 0, 0, 0, 6}, true
	if err := l.update(store.Update{Full: true, Put: []store.Lease{lease}}); err != nil {
		t.Fatal(err)
	}
	inputs, _ := l.inputs()
	four := topology.Lease{
		Key: lease.Key, Subnet: lease.Subnet, Node: lease.PublicIP, Other: lease.PublicIPv6, Encap: topology.EncapVXLAN,
		MAC: lease.MAC, VNI: 1, Created: 1, Modified: 7,
	}
	six := four
	six.Subnet, six.Node, six.Other, six.MAC = lease.Subnet6, lease.PublicIPv6, lease.PublicIP, lease.MACv6
	six.ZeroChecksum = true
	if len(inputs) != 2 || inputs[0].Leases[0] != four || inputs[1].Leases[0] != six ||
		inputs[0].Network != l.config.Network || inputs[1].Network != l.config.IPv6Network {
		t.Errorf("inputs %+v", inputs)
	}
	if err := l.update(store.Update{Deleted: []string{lease.Key}}); err != nil {
		t.Fatal(err)
	}
	inputs, _ = l.inputs()
	if len(inputs[0].Leases)+len(inputs[1].Leases) != 0 {
		t.Errorf("after its deletion: %+v", inputs)
	}
}

// TestStrand: a family that has lost its address stays as it is, and the other goes on.
func TestStrand(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.168.32.245"), netip.MustParseAddr("2001:db8::245")
	gone := errors.New("gone")
	for name, test := range map[string]struct {
		lost     []netip.Addr
		down     error
		families []bool // lost
		stranded bool
	}{
		"all well":      {nil, nil, []bool{false, false}, false},
		"down":          {nil, gone, []bool{false, false}, true},
		"IPv6 is lost":  {[]netip.Addr{v6}, gone, []bool{false, true}, false},
		"IPv4 is lost":  {[]netip.Addr{v4}, gone, []bool{true, false}, false},
		"both are lost": {[]netip.Addr{v4, v6}, gone, []bool{true, true}, true},
	} {
		l, _ := testLoop(t, dualConfig)
		l.uplink = underlay.Uplink{MTU: 1500, Addr: v4, Addr6: v6}
		l.families = l.newFamilies()
		for _, f := range l.families {
			f.lost = !test.stranded // of before
		}
		l.strand(test.lost, test.down)
		if got := []bool{l.families[0].lost, l.families[1].lost}; !cmp.Equal(got, test.families) || l.stranded != test.stranded {
			t.Errorf("%s: lost %v, stranded %t; want %v, %t", name, got, l.stranded, test.families, test.stranded)
		}
	}
}

func TestProblemsAreSaidOnce(t *testing.T) {
	a, b := topology.Problem{Key: "a", Text: "another backend"}, topology.Problem{Key: "b", Text: "another backend"}
	if got := once([]topology.Problem{a, b, a}); !cmp.Equal(got, []topology.Problem{a, b}) {
		t.Errorf("got %v", got)
	}
}
