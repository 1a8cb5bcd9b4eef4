// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestVerifiedInstructions logs how many instructions this kernel's verifier looked at in each
// program: what comes near its limit of a million (BPF_COMPLEXITY_LIMIT_INSNS) would not load
// on the next kernel, which counts otherwise.
func TestVerifiedInstructions(t *testing.T) {
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		t.Fatal(err)
	}
	ipv4, both := xdpOptions(t, true), xdpOptions(t, true)
	everything(&both.Settings)
	for _, o := range []struct {
		name string
		Options
	}{{"IPv4", ipv4}, {"everything", both}} {
		programs := open(t, o.Options).coll.Programs
		for _, name := range slices.Sorted(maps.Keys(programs)) {
			const limit = 100_000
			info, err := programs[name].Info()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := info.VerifiedInstructions()
			if !ok || n == 0 || n > limit {
				t.Errorf("%s: %d instructions verified (known: %v), want 1 to %d", name, n, ok, limit)
			}
			t.Logf("kernel %s, %s, %s: %d instructions verified", unix.ByteSliceToString(kernel.Release[:]), o.name, name, n)
		}
	}
}

// everything switches on all that there is at once, in both address families.
func everything(s *bpf.DatapathSettings) {
	f := bpf.DatapathFamily{Used: 1, OverlayIfindex: 1, IndexShift: 8, IndexCount: 16, Node: bpf.DatapathAddr{Word: [4]uint32{1, 2, 3, 4}}}
	s.Ipv4, s.Ipv6 = f, f
	s.Ipv6.IndexShift, s.Ipv6.IndexFirst = 56, 16
	s.Vni, s.VxlanPort, s.UdpPort, s.Ipip, s.Direct, s.Spread = 1, 0x1821, 0x5d20, 1, 1, 1
}
