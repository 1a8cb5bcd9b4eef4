// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// whole makes a host entry of its parts, as template_complete in bpf/include/encap.h.
func whole(h maps.Host, own maps.Shortcut) maps.Host {
	h.Node = own.Node
	if !h.NextHop.IsValid() {
		h.NextHop = own.Node
	}
	if h.HeaderLen == 0 {
		return h
	}
	node := own.Node.As4()
	sum := uint32(binary.BigEndian.Uint16(h.Header[atChecksum:])) + uint32(internetSum(node[:]))
	binary.BigEndian.PutUint16(h.Header[atChecksum:], uint16(sum&0xffff+sum>>16))
	copy(h.Header[atDst:], node[:])
	if h.Encap == bpf.DatapathEncapENCAP_VXLAN {
		copy(h.Header[atVTEP:], own.VTEP[:])
	}
	return h
}

func TestSplit(t *testing.T) {
	self := topology.Self{
		Subnet: netip.MustParsePrefix("172.245.0.0/24"), Node: netip.MustParseAddr("192.168.32.245"),
		VTEP: topology.VTEP{MAC: topology.MAC{2, 0, 0, 0, 0, 1}}, VNI: 1, Port: 8472, MTU: 1450,
	}
	for _, encap := range []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP, topology.EncapUDP, topology.EncapNone} {
		for _, router := range []string{"", "192.168.32.1"} {
			templates := map[maps.Host]bool{}
			for _, node := range []string{"192.168.32.246", "192.168.255.255", "10.0.0.1"} {
				p := topology.Peer{
					Subnet: netip.MustParsePrefix("172.246.0.0/24"), Node: netip.MustParseAddr(node), Encap: encap,
					VTEP: topology.VTEP{MAC: topology.MAC{2, 0, 0, 0, 0, byte(len(templates) + len(node))}},
				}
				p.Path = topology.Path{Ifindex: 2, NextHop: p.Node, MTU: 1500}
				if router != "" {
					p.Path.NextHop = netip.MustParseAddr(router)
				}
				h, err := hostEntry(self, p)
				if err != nil {
					t.Fatal(err)
				}
				template, own, ok := split(h)
				if got := whole(template, own); !ok || got != h {
					t.Errorf("%s to %s by %q: the parts make %+v, want %+v", encap, node, router, got, h)
				}
				templates[template] = true
			}
			if len(templates) != 1 {
				t.Errorf("%s by %q: %d templates for nodes that differ in address and MAC alone", encap, router, len(templates))
			}
		}
	}
	if _, _, ok := split(maps.Host{Node: netip.MustParseAddr("2001:db8::1")}); ok {
		t.Error("a node of IPv6 has no room in a slot")
	}
}
