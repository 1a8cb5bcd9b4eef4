// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestWindows compares the arithmetic with prefixes that contain addresses, where a slot ends in
// either half of an address, or begins in one and ends in the other.
func TestWindows(t *testing.T) {
	for _, c := range []struct {
		network string
		bits    int
	}{
		{"172.244.0.0/14", 24}, {"10.1.2.0/28", 30}, {"128.0.0.0/1", 8},
		{"fd00:42::/48", 64}, {"fd00:42::/52", 60}, {"fd00:42:0:ff00::/56", 72}, {"fd00::1:0/112", 120},
		{"fd00:42:0:1::/64", 80}, {"fd00:42::/63", 65}, {"8000::/1", 8}, {"fd00::ffff:ffff:ffff:fff0/124", 128},
	} {
		network := netip.MustParsePrefix(c.network)
		x := Window{Base: network.Addr(), Bits: c.bits, First: 7, Count: 1 << (c.bits - network.Bits())}
		var w bpf.DatapathFamily
		x.Encode(&w)
		if got := decodeWindow(w, network.Addr().BitLen()); got != x {
			t.Errorf("%s: decoded as %+v, want %+v", c.network, got, x)
		}
		if err := x.check(); err != nil {
			t.Errorf("%s: %v", c.network, err)
		}
		for range 10_000 {
			testWindow(t, x, network, near(network.Addr(), network.Bits()))
		}
	}
}

func testWindow(t *testing.T, x Window, network netip.Prefix, a netip.Addr) {
	t.Helper()
	slot, ok := x.slotOf(a)
	if ok != network.Contains(a) {
		t.Fatalf("slotOf(%s) of %s = %d, %t", a, network, slot, ok)
	}
	if !ok {
		return
	}
	if p, found := x.prefix(slot); !found || !p.Contains(a) || p.Bits() != x.Bits {
		t.Fatalf("%s falls into slot %d of %s, which stands for %s", a, slot, network, p)
	}
}

// near is a random address that has most of the first bits of another.
func near(a netip.Addr, bits int) netip.Addr {
	b := a.AsSlice()
	for i := range b {
		if i >= bits/8 {
			b[i] = byte(rand.Uint32())
		}
	}
	if rand.IntN(4) == 0 {
		b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

func TestWindowRefused(t *testing.T) {
	for _, x := range []Window{
		{Base: netip.MustParseAddr("172.244.0.1"), Bits: 24, Count: 1},
		{Base: netip.MustParseAddr("fd00::1"), Bits: 64, Count: 1},
		{Base: netip.MustParseAddr("fd00::"), Bits: 0, Count: 1},
		{Base: netip.MustParseAddr("fd00::"), Bits: -3, Count: 1},
	} {
		if x.check() == nil {
			t.Errorf("%+v was taken", x)
		}
	}
}
