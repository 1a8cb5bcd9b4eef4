// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestMerge(t *testing.T) {
	for name, tc := range map[string]struct{ subnets, want []string }{
		"none":         {},
		"one":          {[]string{"10.0.1.0/24"}, []string{"10.0.1.0/24"}},
		"two halves":   {[]string{"10.0.1.0/24", "10.0.0.0/24"}, []string{"10.0.0.0/23"}},
		"not of one":   {[]string{"10.0.1.0/24", "10.0.2.0/24"}, []string{"10.0.1.0/24", "10.0.2.0/24"}},
		"many":         {[]string{"10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24", "10.0.0.0/24"}, []string{"10.0.0.0/22", "10.0.4.0/24"}},
		"two lengths":  {[]string{"10.0.0.0/24", "10.0.1.128/25", "10.0.1.0/25"}, []string{"10.0.0.0/23"}},
		"IPv6":         {[]string{"fc00:0:0:1::/64", "fc00::/64"}, []string{"fc00::/63"}},
		"all there is": {[]string{"0.0.0.0/1", "128.0.0.0/1"}, []string{"0.0.0.0/0"}},
	} {
		if got := merge(prefixes(tc.subnets)); !slices.Equal(got, prefixes(tc.want)) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func prefixes(all []string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestMergeIsExact holds random subnets against what is merged of them, address by address.
func TestMergeIsExact(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var subnets []netip.Prefix
		in := map[netip.Addr]bool{}
		for n := range 64 {
			if random.IntN(3) > 0 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n * 4)}), 30)
				subnets = append(subnets, p)
				in[p.Addr()] = true
			}
		}
		random.Shuffle(len(subnets), func(i, j int) { subnets[i], subnets[j] = subnets[j], subnets[i] })
		merged := merge(subnets)
		for n := range 64 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(n * 4)})
			if slices.ContainsFunc(merged, func(p netip.Prefix) bool { return p.Contains(a) }) != in[a] {
				t.Fatalf("%s is in %v, or is not: %t", a, merged, in[a])
			}
		}
	}
}
