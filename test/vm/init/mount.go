// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is a file system to mount.
type mount struct {
	kind, source, target, options string
	flags                         uintptr
}

// root is what makes the host's files, with a tmpfs for what is written to them, the directory /root.
// The cache is kept without asking the host again: nobody changes the files meanwhile.
var root = []mount{
	{"9p", "files", "/host", "trans=virtio,version=9p2000.L,msize=512000,cache=loose", unix.MS_RDONLY},
	{"tmpfs", "tmpfs", "/changes", "", 0},
	{"overlay", "overlay", "/root", "lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work", 0},
}

// system is what every Linux machine has.
var system = []mount{
	{"devtmpfs", "devtmpfs", "/dev", "", 0},
	{"devpts", "devpts", "/dev/pts", "", 0},
	{"tmpfs", "tmpfs", "/dev/shm", "", 0},
	{"proc", "proc", "/proc", "", 0},
	{"sysfs", "sysfs", "/sys", "", 0},
	{"tracefs", "tracefs", "/sys/kernel/tracing", "", 0},
	{"bpf", "bpf", "/sys/fs/bpf", "", 0},
	{"cgroup2", "cgroup2", "/sys/fs/cgroup", "", 0},
	{"tmpfs", "tmpfs", "/run", "", 0},
}

// mountRoot makes the host's files this machine's.
func mountRoot() error {
	for _, m := range root {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := moveRoot("/root"); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	for _, m := range system {
		if err := m.mount(); err != nil {
			return err
		}
	}
	for _, link := range [][2]string{{"fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"}} {
		if err := os.Symlink("/proc/self/"+link[0], link[1]); err != nil {
			return fmt.Errorf("make %s: %w", link[1], err)
		}
	}
	return nil
}

// mount mounts it. The directory is made where it is missing, and so are those of an overlay.
func (m mount) mount() error {
	for _, dir := range []string{m.target, "/changes/upper", "/changes/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// moveRoot makes a mounted directory the root. The initramfs has no other way (pivot_root(2)).
func moveRoot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// useModules puts the modules of the unpacked kernel package where the kernel's modprobe looks for them.
func useModules(kernel string) error {
	if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
		return fmt.Errorf("use modules: %w", err)
	}
	if err := unix.Mount(filepath.Join(kernel, "lib/modules"), "/lib/modules", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("use modules: %w", err)
	}
	return nil
}
