// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace names, in the environment, the process that is in a namespace of its own: the
// workers of a fuzz run inherit the variable, but not the process id.
const inNamespace = "BPFNET_PACKET_TEST_PID"

// TestMain moves the process into a new network namespace, by starting over in it: a test run looks
// devices up in the namespace of the thread that asks, and Go moves goroutines between threads.
// The namespace has no name and ends with the process.
func TestMain(m *testing.M) {
	if err := enterNamespace(); err != nil {
		panic(fmt.Errorf("enter network namespace (root is needed): %w", err))
	}
	m.Run()
}

func enterNamespace() error {
	pid := strconv.Itoa(os.Getpid())
	if os.Getenv(inNamespace) == pid {
		return errors.Join(addLinks(), track(connections), track(connectionsV6))
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := os.Setenv(inNamespace, pid); err != nil {
		return fmt.Errorf("set environment: %w", err)
	}
	return fmt.Errorf("start over: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// addLinks makes the node's devices, each a veth whose other end is named "peer-" + name.
func addLinks() error {
	for _, l := range allLinks {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index, attrs.HardwareAddr = l.name, int(l.ifindex), l.mac[:]
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer-" + l.name}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", l.name, err)
		}
	}
	return nil
}
