// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// Namespace is the name of a network namespace, as `ip netns` lists it.
type Namespace string

// Do runs f on a thread inside the namespace. What f opens there (sockets,
// processes) stays there. f must not end its goroutine (no t.Fatal).
func (n Namespace) Do(f func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromName(string(n))
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", n, err)
		}
		defer ns.Close() //nolint:errcheck // read only
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n, err)
		}
		return f()
	})
}

// Command is a command inside the namespace, with /sys showing the namespace's
// devices. Its process is the command's own: ip replaces itself by it.
func (n Namespace) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", string(n)}, args...)...)
}

// Run runs a command inside the namespace and returns what it printed. Its
// error holds what the command said on standard error.
func (n Namespace) Run(ctx context.Context, args ...string) (string, error) {
	cmd := n.Command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("run %q in %s: %w: %s", strings.Join(args, " "), n, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// Dial connects from inside the namespace. Its connections, like those of Listen, are
// kept alive by no probes, which would be packets that nobody has asked for.
func (n Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the namespace.
func (n Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// create makes the namespace, lo up, and IPv6 on or off for all links to come.
func (n Namespace) create(ipv6 bool) error {
	if err := shareNames(); err != nil {
		return err
	}
	return onThread(func() error {
		ns, err := netns.NewNamed(string(n))
		if err != nil {
			return fmt.Errorf("create namespace %s: %w", n, err)
		}
		defer ns.Close() //nolint:errcheck // read only
		if !ipv6 {
			err = setSysctls("1", "net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6")
			if err != nil {
				return err
			}
		}
		if ipv6 {
			if err = silentIPv6(); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo in %s: %w", n, err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up in %s: %w", n, err)
		}
		return nil
	})
}

// shareNames makes a shared mount of the names' directory, as `ip netns add` does where it is none
// yet (netns_add in iproute2's ip/ipnetns.c). Done by ip while namespaces of ours have names, it
// would leave each of them mounted once more, below, where nobody can unmount it.
func shareNames() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", netnsDir, err)
	}
	share := func() error { return unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if errors.Is(err, unix.EINVAL) { // no mount
		if err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("share %s as a mount: %w", netnsDir, err)
	}
	return nil
}

// remove takes the name away; the namespace ends with the last process in it.
// That there is none, or half of one, is no error.
func (n Namespace) remove() error {
	path := filepath.Join(netnsDir, string(n))
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount namespace %s: %w", n, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", n, err)
	}
	return nil
}

// namespacesOf lists the namespaces of a lab, however it came to be.
func namespacesOf(lab string) ([]Namespace, error) {
	paths, err := filepath.Glob(filepath.Join(netnsDir, namespaceName(lab, "*")))
	if err != nil {
		return nil, fmt.Errorf("list namespaces of lab %s: %w", lab, err)
	}
	all := make([]Namespace, len(paths))
	for i, p := range paths {
		all[i] = Namespace(filepath.Base(p))
	}
	return all, nil
}

// namespaceName is "bpfnet-lab-h1-c1".
func namespaceName(lab string, parts ...string) string {
	return strings.Join(append([]string{"bpfnet", lab}, parts...), "-")
}

// onThread runs f on a thread that ends with it, in whatever namespace f left it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// setSysctls writes to the network namespace of the calling thread; one that
// this kernel does not have is left out.
func setSysctls(value string, names ...string) error {
	for _, name := range names {
		err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s to %s: %w", name, value, err)
		}
	}
	return nil
}
