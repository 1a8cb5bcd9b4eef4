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
			want.Node.Word = maps.Addr(netip.MustParseAddr("192.168.32.245")).Word
			want.OverlayIfindex, want.OverlayMac.Byte = 9, selfMAC
			want.IndexBase, want.IndexShift, want.IndexCount = 172<<24|244<<16, 8, 1024
			got := Settings(testSelf(test.encap), testNetwork, 24, test.direct, Overlay{Ifindex: 9, MAC: selfMAC})
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(want)); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSettingsOfIndex(t *testing.T) {
	tests := map[string]struct {
		network            string
		subnetLen          int
		base, shift, count uint32
	}{
		"of the lab":          {"172.244.0.0/14", 24, 0xacf40000, 8, 1024},
		"network is one slot": {"172.244.0.0/14", 14, 0xacf40000, 18, 1},
		"smallest":            {"10.1.2.0/28", 30, 0x0a010200, 2, 4},
		"largest":             {"10.0.0.0/8", 30, 0x0a000000, 2, 1 << 22},
		"larger than it gets": {"128.0.0.0/1", 30, 0x80000000, 2, 1 << 22},
		"network not aligned": {"172.245.1.2/14", 24, 0xacf40000, 8, 1024},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := Settings(testSelf(topology.EncapIPIP), netip.MustParsePrefix(test.network), test.subnetLen, false, Overlay{})
			if s.IndexBase != test.base || s.IndexShift != test.shift || s.IndexCount != test.count {
				t.Errorf("base %#x, shift %d, count %d; want %#x, %d, %d",
					s.IndexBase, s.IndexShift, s.IndexCount, test.base, test.shift, test.count)
			}
		})
	}
}
