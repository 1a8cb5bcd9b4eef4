// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// TestSettingsOfEncap: only what the backend uses is switched on. Ports are in
// network byte order: 8472 is 0x2118, on the wire 21 18, read by a
// little-endian machine 0x1821.
func TestSettingsOfEncap(t *testing.T) {
	tests := map[string]struct {
		encap  topology.Encap
		direct bool
		want   bpf.DatapathSettings
	}{
		"vxlan":         {topology.EncapVXLAN, false, bpf.DatapathSettings{VxlanPort: 0x1821, Vni: 1}},
		"vxlan, direct": {topology.EncapVXLAN, true, bpf.DatapathSettings{VxlanPort: 0x1821, Vni: 1, Direct: 1}},
		"udp":           {topology.EncapUDP, false, bpf.DatapathSettings{UdpPort: 0x5d20}},
		"ipip":          {topology.EncapIPIP, false, bpf.DatapathSettings{Ipip: 1}},
		"ipip, direct":  {topology.EncapIPIP, true, bpf.DatapathSettings{Ipip: 1, Direct: 1}},
		"host-gw":       {topology.EncapNone, false, bpf.DatapathSettings{Direct: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := test.want
			want.Ipv4 = bpf.DatapathFamily{
				Node: maps.Addr(netip.MustParseAddr("192.168.32.245")), OverlayIfindex: 9, OverlayMac: bpf.DatapathMac{Byte: selfMAC},
				IndexBase: [2]uint64{0, 172<<24 | 244<<16}, IndexShift: 8, IndexCount: 1024, Used: 1,
			}
			got := Settings(test.direct, Network{testSelf(test.encap), testNetwork, 24, Overlay{Ifindex: 9, MAC: selfMAC}})
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(want)); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSettingsOfIndex(t *testing.T) {
	tests := map[string]struct {
		network      string
		subnetLen    int
		base         [2]uint64
		shift, count uint32
	}{
		"of the lab":              {"172.244.0.0/14", 24, [2]uint64{0, 0xacf40000}, 8, 1024},
		"network is one slot":     {"172.244.0.0/14", 14, [2]uint64{0, 0xacf40000}, 18, 1},
		"smallest":                {"10.1.2.0/28", 30, [2]uint64{0, 0x0a010200}, 2, 4},
		"largest":                 {"10.0.0.0/8", 30, [2]uint64{0, 0x0a000000}, 2, 1 << 22},
		"larger than it gets":     {"128.0.0.0/1", 30, [2]uint64{0, 0x80000000}, 2, 1 << 22},
		"network not aligned":     {"172.245.1.2/14", 24, [2]uint64{0, 0xacf40000}, 8, 1024},
		"IPv6":                    {"fd00:42::/48", 64, [2]uint64{0xfd00_0042_0000_0000, 0}, 64, 1 << 16},
		"IPv6, long subnets":      {"fd00:42::/56", 72, [2]uint64{0xfd00_0042_0000_0000, 0}, 56, 1 << 16},
		"IPv6, low bits":          {"fd00::1:0/112", 120, [2]uint64{0xfd00_0000_0000_0000, 0x10000}, 8, 256},
		"IPv6, more than it gets": {"fd00::/8", 126, [2]uint64{0xfd00_0000_0000_0000, 0}, 2, 1 << 22},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			network := netip.MustParsePrefix(test.network)
			s := Settings(false, Network{testSelf(topology.EncapIPIP), network, test.subnetLen, Overlay{}})
			f := family(&s, network.Addr())
			if f.IndexBase != test.base || f.IndexShift != test.shift || f.IndexCount != test.count {
				t.Errorf("base %#x, shift %d, count %d; want %#x, %d, %d",
					f.IndexBase, f.IndexShift, f.IndexCount, test.base, test.shift, test.count)
			}
		})
	}
}

// TestSettingsOfBothFamilies: each family has a device of its own, and its part of the index.
func TestSettingsOfBothFamilies(t *testing.T) {
	v6 := testSelf(topology.EncapVXLAN)
	v6.Node = netip.MustParseAddr("2001:db8:32::245")
	got := Settings(false,
		Network{testSelf(topology.EncapVXLAN), testNetwork, 24, Overlay{Ifindex: 9, MAC: selfMAC}},
		Network{v6, netip.MustParsePrefix("fd00:42::/48"), 64, Overlay{Ifindex: 10, MAC: topology.MAC{6}}})
	want := bpf.DatapathSettings{
		VxlanPort: 0x1821, Vni: 1,
		Ipv4: bpf.DatapathFamily{
			Node: maps.Addr(netip.MustParseAddr("192.168.32.245")), OverlayIfindex: 9, OverlayMac: bpf.DatapathMac{Byte: selfMAC},
			IndexBase: [2]uint64{0, 172<<24 | 244<<16}, IndexShift: 8, IndexCount: 1024, Used: 1,
		},
		Ipv6: bpf.DatapathFamily{
			Node: maps.Addr(v6.Node), OverlayIfindex: 10, OverlayMac: bpf.DatapathMac{Byte: topology.MAC{6}},
			IndexBase: [2]uint64{0xfd00_0042_0000_0000, 0}, IndexShift: 64, IndexFirst: 1024, IndexCount: 1 << 16, Used: 1,
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(want)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}
