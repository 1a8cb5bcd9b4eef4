// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/nstest"
)

// `ip netns exec` gives each command a mount namespace of its own: pins made
// in one must be there in the next.
func TestPinsOutliveTheMountNamespace(t *testing.T) {
	nstest.Enter(t)
	runDir := t.TempDir()
	defer func() {
		if err := Cleanup(runDir); err != nil {
			t.Error(err)
		}
	}()
	privately(t, func() {
		o := testOptions(t)
		dir, err := EnsurePinDir(runDir)
		if err != nil {
			t.Error(err)
			return
		}
		o.PinDir = dir
		d, err := Open(o)
		if err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(d.Publish(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	privately(t, func() {
		dir, err := PinDir(runDir)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := os.Stat(filepath.Join(dir, mapsDir, "hosts")); err != nil {
			t.Errorf("pins of an earlier mount namespace: %v", err)
		}
	})
}

// A bpffs mounted over another would hide the pins there.
func TestPinDirIsMountedOnce(t *testing.T) {
	nstest.Enter(t)
	runDir := t.TempDir()
	defer func() {
		if err := Cleanup(runDir); err != nil {
			t.Error(err)
		}
	}()
	var at errgroup.Group
	for range 16 {
		at.Go(func() error {
			_, err := EnsurePinDir(runDir)
			return err
		})
	}
	if err := at.Wait(); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo") // the process is where privately() has put its first thread, perhaps
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(mounts), " "+filepath.Join(runDir, bpffsDir)+" "); n != 1 {
		t.Errorf("%d mounts, want 1", n)
	}
}

// privately runs f in a mount namespace of its own, as `ip netns exec` does.
func privately(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Errorf("unshare mount namespace: %v", err)
			return
		}
		if err := unix.Mount("", "/", "none", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			t.Errorf("make mounts slaves: %v", err)
			return
		}
		f()
	}()
	<-done
}
