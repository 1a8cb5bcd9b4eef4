// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"net/netip"
	"slices"
	"testing"
)

func TestBridges(t *testing.T) {
	n := newSpace(t)
	n.enable6()
	n.addBridge("br4", "172.245.0.1/24", nil)
	n.addBridge("br6", "2001:db8:42:1::1/64", nil)
	n.addBridge("both", "172.245.0.254/24", nil)
	n.must(n.AddrAdd(n.link("both"), ipAddr("2001:db8:42:1::2/64")))
	n.addBridge("empty", "172.245.0.253/24", nil)
	n.addBridge("other", "172.246.0.1/24", nil)
	for _, bridge := range []string{"br4", "br6", "both", "other"} {
		n.addContainer("v"+bridge, bridge, "172.245.0.2/24")
	}
	n.addContainer("routed", "", "172.245.0.3/24")
	n.routeTo("routed", "172.245.0.3")
	v4, v6 := netip.MustParsePrefix("172.245.0.0/24"), netip.MustParsePrefix("2001:db8:42:1::/64")
	check := func(subnets []netip.Prefix, ignore []string, names ...string) {
		t.Helper()
		var want []int
		for _, name := range names {
			want = append(want, n.index(name))
		}
		var got []int
		n.must(n.do(func() (err error) { got, err = Bridges(t.Context(), subnets, ignore); return err }))
		if !slices.Equal(got, want) {
			t.Errorf("of %v without %q: %v, want %v, which are %q", subnets, ignore, got, want, names)
		}
	}
	check([]netip.Prefix{v4}, nil, "br4", "both")
	check([]netip.Prefix{v6}, nil, "br6", "both")
	check([]netip.Prefix{v4, v6}, nil, "br4", "br6", "both")
	check([]netip.Prefix{v4, v6}, []string{"br4", "vboth"}, "br6")
	check(nil, nil)
	n.must(n.LinkSetNoMaster(n.link("vbr4")))
	check([]netip.Prefix{v4}, nil, "both")
}
