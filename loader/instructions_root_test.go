// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVerifiedInstructions logs how many instructions this kernel's verifier looked at in each
// program: what comes near its limit of a million (BPF_COMPLEXITY_LIMIT_INSNS) would not load
// on the next kernel, which counts otherwise.
func TestVerifiedInstructions(t *testing.T) {
	const limit = 100_000
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		t.Fatal(err)
	}
	programs := open(t, xdpOptions(t, true)).coll.Programs
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		info, err := programs[name].Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok || n == 0 || n > limit {
			t.Errorf("%s: %d instructions verified (known: %v), want 1 to %d", name, n, ok, limit)
		}
		t.Logf("kernel %s, %s: %d instructions verified", unix.ByteSliceToString(kernel.Release[:]), name, n)
	}
}
