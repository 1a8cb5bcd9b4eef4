// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketBuffer is room, in bytes, for the bursts of many peers, and for what
// waits for the MAC addresses of nodes that are down.
const socketBuffer = 4 << 20

// socketOptions: DF as flanneld's socket sends it, which relies on the default
// that net.ipv4.ip_no_pmtu_disc may change: set, unless the datagram is larger
// than the path is known to be; then it is fragmented.
var socketOptions = []struct {
	name              string
	level, opt, value int
}{
	{"IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_WANT},
	{"IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
	{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer},
	{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer},
}

// openSocket binds the tunnel's socket. Unconnected and without IP_RECVERR, it
// never hears of the ICMP errors that a peer's datagrams meet (udp(7)).
func openSocket(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = setOptions(int(fd)) })
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, "udp4", addr.String())
	if err != nil {
		return nil, fmt.Errorf("open the tunnel's socket: %w", err)
	}
	return conn.(*net.UDPConn), nil //nolint:errcheck // "udp4" is nothing else
}

func setOptions(fd int) error {
	for _, o := range socketOptions {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	return nil
}
