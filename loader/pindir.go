// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/maps"
)

// bpffsDir is where a run directory has its bpffs.
const bpffsDir = "bpf"

// PinDir returns the directory of a bpffs that holds a daemon's pins, if
// there is one: runDir/bpf, here or in the machine's own mount namespace. A
// daemon started by `ip netns exec` lives in a mount namespace that ends with
// it, so its bpffs is mounted in the machine's. The error is maps.ErrNoDatapath
// where there is none, and another where that cannot be told.
func PinDir(runDir string) (string, error) {
	runDir, err := filepath.Abs(runDir)
	if err != nil {
		return "", fmt.Errorf("resolve run directory: %w", err)
	}
	local := filepath.Join(runDir, bpffsDir)
	if _, err := isBPFFS(local); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("look for pins in %s: %w", local, err)
	}
	for _, root := range append([]string{""}, machineRoots()...) {
		if ok, err := isBPFFS(root + local); err == nil && ok {
			return root + local, nil
		}
	}
	return "", fmt.Errorf("%w under %s: is the daemon's --run-dir another?", maps.ErrNoDatapath, runDir)
}

// machineProcs are the processes taken to live in the machine's (or the
// daemon's container's) own mount namespace: the first one and, where that
// lets nobody look at it, kthreadd, the parent of the kernel's threads.
var machineProcs = []string{"/proc/1", "/proc/2"}

func machineRoots() []string {
	roots := make([]string, 0, len(machineProcs))
	for _, proc := range machineProcs {
		roots = append(roots, proc+"/root")
	}
	return roots
}

// machineMountNamespace is the file of the machine's mount namespace, or ""
// where that is the one we are in, or none can be looked at.
func machineMountNamespace() string {
	self, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return ""
	}
	for _, proc := range machineProcs {
		if ns, err := os.Readlink(proc + "/ns/mnt"); err == nil {
			if ns == self {
				return ""
			}
			return proc + "/ns/mnt"
		}
	}
	return ""
}

// EnsurePinDir is PinDir, but mounts the bpffs where it is missing: one, however
// many processes ask for it at once, for a second would hide the first one's pins.
func EnsurePinDir(runDir string) (_ string, err error) {
	if runDir, err = filepath.Abs(runDir); err != nil {
		return "", fmt.Errorf("resolve run directory: %w", err)
	}
	if err = os.MkdirAll(filepath.Join(runDir, bpffsDir), 0o700); err != nil {
		return "", fmt.Errorf("create run directory: %w", err)
	}
	lock, err := os.Open(runDir)
	if err != nil {
		return "", fmt.Errorf("open run directory: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock run directory: %w", err)
	}
	if dir, missing := PinDir(runDir); missing == nil {
		return dir, nil
	}
	if err = mountForAll(filepath.Join(runDir, bpffsDir)); err != nil {
		return "", fmt.Errorf("mount bpffs for pins (needs CAP_SYS_ADMIN, or mount one there yourself): %w", err)
	}
	return PinDir(runDir)
}

func isBPFFS(dir string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, err
	}
	return fs.Type == unix.BPF_FS_MAGIC, nil
}

// mountForAll mounts a bpffs at dir in the machine's mount namespace, where
// it outlives this process.
func mountForAll(dir string) error {
	ns := machineMountNamespace()
	if ns == "" {
		return mountBPFFS(dir)
	}
	return inMountNamespace(ns, func() error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return mountBPFFS(dir)
	})
}

func mountBPFFS(dir string) error {
	if err := unix.Mount("bpffs", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// unmountForAll undoes mountForAll.
func unmountForAll(dir string) error {
	err := unmountBPFFS(dir)
	if ns := machineMountNamespace(); ns != "" {
		err = errors.Join(err, inMountNamespace(ns, func() error { return unmountBPFFS(dir) }))
	}
	return err
}

func unmountBPFFS(dir string) error {
	if ok, err := isBPFFS(dir); err != nil || !ok {
		return nil //nolint:nilerr // not there: nothing to unmount
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// inMountNamespace runs f on a thread of its own that has entered the mount
// namespace and ends afterwards.
func inMountNamespace(file string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- enterMountNamespace(file, f)
	}()
	return <-done
}

func enterMountNamespace(file string, f func() error) error {
	ns, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open mount namespace: %w", err)
	}
	defer ns.Close() //nolint:errcheck // read only
	// setns(2): a thread that shares its filesystem state cannot change mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare filesystem state: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return f()
}
