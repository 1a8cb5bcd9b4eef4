// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBuildPeer holds what a lease becomes, by backend, DirectRouting and
// whether a router stands between the nodes.
func TestBuildPeer(t *testing.T) {
	onLink := Path{Ifindex: 2, NextHop: addr("192.168.32.246"), MTU: 1500}
	routed := Path{Ifindex: 2, NextHop: router, MTU: 1400}
	vtep := VTEP{MAC: macA, Addr: addr("172.246.0.0")}
	tests := []struct {
		backend Encap
		direct  bool
		path    Path
		encap   Encap
		vtep    VTEP
	}{
		{EncapVXLAN, false, onLink, EncapVXLAN, vtep},
		{EncapVXLAN, false, routed, EncapVXLAN, vtep},
		{EncapVXLAN, true, onLink, EncapNone, VTEP{}},
		{EncapVXLAN, true, routed, EncapVXLAN, vtep},
		{EncapIPIP, false, onLink, EncapIPIP, VTEP{}},
		{EncapIPIP, false, routed, EncapIPIP, VTEP{}},
		{EncapIPIP, true, onLink, EncapNone, VTEP{}},
		{EncapIPIP, true, routed, EncapIPIP, VTEP{}},
		{EncapUDP, false, onLink, EncapUDP, VTEP{}},
		{EncapUDP, true, onLink, EncapUDP, VTEP{}}, // flannel's udp backend knows no DirectRouting
		{EncapUDP, true, routed, EncapUDP, VTEP{}},
		{EncapNone, false, onLink, EncapNone, VTEP{}},
		{EncapNone, true, onLink, EncapNone, VTEP{}},
	}
	for _, test := range tests {
		in := input(lease("172.246.0.0/24 192.168.32.246", encap(test.backend)))
		in.Self.Encap = test.backend
		in.DirectRouting = test.direct
		in.Path = func(netip.Addr) (Path, error) { return test.path, nil }
		want := State{
			Network: network, Self: in.Self,
			Peers: []Peer{{
				Key: "172.246.0.0-24", Subnet: prefix("172.246.0.0/24"), Node: addr("192.168.32.246"),
				Encap: test.encap, VTEP: test.vtep, Path: test.path,
			}},
		}
		got, problems := Build(in)
		if diff := cmp.Diff(want, got, byValue); diff != "" || len(problems) > 0 {
			t.Errorf("%s, direct routing %t, next hop %s: problems %v, state (-want +got):\n%s",
				test.backend, test.direct, test.path.NextHop, problems, diff)
		}
	}
}
