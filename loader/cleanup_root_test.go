// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/test/nstest"
)

func TestCleanupLeavesNothing(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	runDir := t.TempDir()
	o := testOptions(t)
	var err error
	if o.PinDir, err = EnsurePinDir(runDir); err != nil {
		t.Fatal(err)
	}
	start(t, o, bpf.FromNetwork, eth)
	if err := Cleanup(runDir); err != nil {
		t.Fatal(err)
	}
	waitDetached(t, eth)
	if ok, err := isBPFFS(filepath.Join(runDir, bpffsDir)); ok || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("bpffs still mounted (%v)", err)
	}
	if left, err := os.ReadDir(runDir); err != nil || len(left) > 0 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
	if err := Cleanup(runDir); err != nil {
		t.Errorf("second cleanup: %v", err)
	}
}

// Filters stay when the bpffs is unmounted.
func TestCleanupWithoutPins(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	o.Clsact = true
	start(t, o, bpf.FromNetwork, eth)
	if err := unmountForAll(o.PinDir); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(filepath.Dir(o.PinDir)); err != nil {
		t.Fatal(err)
	}
	if left, err := (clsact{}).list(); err != nil || len(left) > 0 {
		t.Errorf("left attached: %v, %v", left, err)
	}
}

// Pins that may not be looked for are not pins that are not there.
func TestCleanupWithoutPermission(t *testing.T) {
	nstest.Enter(t) // locks the thread, whose file system user changes
	runDir := t.TempDir()
	if err := os.Chmod(runDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	err := Cleanup(runDir)
	if e := unix.Setfsuid(0); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("cleanup of a directory closed to us: %v, want a permission error", err)
	}
}
