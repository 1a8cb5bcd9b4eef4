// SPDX-License-Identifier: Apache-2.0

// Package rtnl is the little that all of the control plane's rtnetlink code
// shares: one socket, whole listings, netip addresses.
package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel answers in microseconds; a minute of silence is a bug to report
// rather than to wait for.
const timeout = time.Minute

// listTries bounds how often a listing is taken again that changed while it was
// read. The tables of a node that starts many containers change all the time.
const listTries = 20

// Open opens one rtnetlink socket in the network namespace of the calling
// thread; every request of the handle goes through it. Close it after use.
func Open() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(timeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("set netlink timeout: %w", err)
	}
	return h, nil
}

// List runs a listing again while the kernel says that it was interrupted by a
// change (NLM_F_DUMP_INTR): such a one may miss entries or hold them twice. what
// is for the error: "routes".
func List[T any](what string, list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		items, err := list()
		if err == nil {
			return items, nil
		}
		if try == listTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
	}
}

// Addr converts an address; none becomes the zero Addr.
func Addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// Prefix converts a network; none becomes the zero Prefix.
func Prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(Addr(n.IP), ones)
}

// IPNet converts back.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
