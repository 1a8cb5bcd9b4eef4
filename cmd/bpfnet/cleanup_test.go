// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/node"
)

// TestCleaned: who has looked in the wrong place is told so.
func TestCleaned(t *testing.T) {
	for _, test := range []struct {
		pins, device bool
		begins       string
	}{
		{true, true, "removed the programs and maps of /run/x, and the overlay device"},
		{true, false, "removed the programs and maps of /run/x; no overlay device is in this network namespace: if the daemon ran in another"},
		{false, true, "removed the overlay device; no programs or maps are under /run/x"},
		{false, false, "nothing of bpfnet was here: no programs or maps under /run/x"},
	} {
		if got := cleaned("/run/x", test.pins, test.device); !strings.HasPrefix(got, test.begins) || strings.Contains(got, "\n") {
			t.Errorf("pins %t, device %t: %s", test.pins, test.device, got)
		}
	}
	if pins, _ := leftovers(filepath.Join(t.TempDir(), "none")); pins {
		t.Error("there are pins of a directory that is not there")
	}
}

// A run directory may be anybody's: only what a daemon made there goes.
func TestRemoveRunDir(t *testing.T) {
	ours := []string{node.SocketName, node.LockName}
	for name, test := range map[string]struct{ files, left []string }{
		"nothing":     {nil, nil},
		"only ours":   {ours, nil},
		"part":        {ours[1:], nil},
		"others' too": {append([]string{"daemon.log", "subnet.env"}, ours...), []string{"daemon.log", "subnet.env"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range test.files {
				if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := removeRunDir(dir); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			var left []string
			for _, e := range entries {
				left = append(left, e.Name())
			}
			if diff := cmp.Diff(test.left, left); diff != "" {
				t.Errorf("left in the run directory (-want +got):\n%s", diff)
			}
			if gone := errors.Is(err, os.ErrNotExist); gone != (test.left == nil) {
				t.Errorf("run directory gone: %v", gone)
			}
		})
	}
}
