// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The kernel answers in microseconds; a minute of silence is a bug to report
// rather than to wait for.
const socketTimeout = time.Minute

// dumpTries bounds how often a dump is taken again that changed while it was
// read. The tables of a node that starts many containers change all the time.
const dumpTries = 20

// kernel is one rtnetlink socket in the caller's namespace.
type kernel struct{ *netlink.Handle }

func openKernel() (kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return kernel{}, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(socketTimeout); err != nil {
		h.Close()
		return kernel{}, fmt.Errorf("set netlink timeout: %w", err)
	}
	return kernel{h}, nil
}

// dump runs a listing again while the kernel says that it was interrupted by a
// change (NLM_F_DUMP_INTR): such a listing may miss entries or hold them twice.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		items, err := list()
		if err == nil {
			return items, nil
		}
		if try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
	}
}

// gone reports whether a removal failed because there was nothing to remove.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// macOf returns the zero MAC for what is no Ethernet address.
func macOf(hw net.HardwareAddr) (mac topology.MAC) {
	if len(hw) == len(mac) {
		copy(mac[:], hw)
	}
	return mac
}

func hardwareAddr(m topology.MAC) net.HardwareAddr { return net.HardwareAddr(m[:]) }

// unicast reports whether m can be the address of one VTEP. The kernel takes an
// all-zero or multicast FDB entry as a list of nodes to flood to.
func unicast(m topology.MAC) bool { return m != topology.MAC{} && m[0]&1 == 0 }
