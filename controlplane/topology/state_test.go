// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"
	"testing"
)

// TestOverhead holds the bytes of DESIGN's table "on the wire", over IPv4 and over IPv6.
func TestOverhead(t *testing.T) {
	v4, v6 := addr("192.168.32.246"), addr("2001:db8:1::246")
	for e, want := range map[Encap][2]int{
		EncapVXLAN: {50, 70}, EncapIPIP: {20, 40}, EncapUDP: {28, 48}, EncapNone: {0, 0}, "gre": {0, 0},
	} {
		if got := [2]int{e.Overhead(v4), e.Overhead(v6)}; got != want {
			t.Errorf("overhead of %s is %d, want %d", e, got, want)
		}
	}
}

func TestMTUTo(t *testing.T) {
	v4, v6 := addr("192.168.32.246"), addr("2001:db8:1::246")
	for name, test := range map[string]struct {
		encap     Encap
		to        netip.Addr
		own, path int
		want      int
	}{
		"path as wide as the uplink": {EncapVXLAN, v4, 1450, 1500, 1450},
		"narrow path":                {EncapIPIP, v4, 1480, 1400, 1380},
		"wide path":                  {EncapUDP, v4, 1372, 1500, 1372},
		"direct":                     {EncapNone, v4, 1350, 1500, 1500}, // DirectRouting: no tunnel limits it
		"over IPv6":                  {EncapVXLAN, v6, 1450, 1500, 1430},
		"direct over IPv6":           {EncapNone, v6, 1350, 1500, 1500},
	} {
		if got := (Self{MTU: test.own}).MTUTo(Peer{Node: test.to, Encap: test.encap, Path: Path{MTU: test.path}}); got != test.want {
			t.Errorf("%s: MTU %d, want %d", name, got, test.want)
		}
	}
}

func TestSource(t *testing.T) {
	v4, v6 := addr("192.168.32.245"), addr("2001:db8:1::245")
	for _, test := range []struct {
		self     Self
		to, want netip.Addr
	}{
		{Self{Node: v4}, addr("192.168.32.246"), v4},
		{Self{Node: v4, Other: v6}, addr("192.168.32.246"), v4},
		{Self{Node: v4, Other: v6}, addr("2001:db8:1::246"), v6},
		{Self{Node: v6, Other: v4}, addr("192.168.32.246"), v4},
		{Self{Other: v4}, addr("192.168.32.246"), v4}, // an IPv6 network's, of a node without an IPv6 address
		{Self{Node: v4}, addr("2001:db8:1::246"), netip.Addr{}},
	} {
		if got := test.self.Source(test.to); got != test.want {
			t.Errorf("source of %+v to %s is %s, want %s", test.self, test.to, got, test.want)
		}
	}
}
