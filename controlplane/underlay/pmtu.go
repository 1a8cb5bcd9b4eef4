// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// WatchPathMTU is [ListenTunnel]'s PathMTU for the tunnels that it does not listen
// for: those over IPv6, and IPv6 in IPv4. node is this
// node's outer address, with the tunnel's port; changed may be
// called by several goroutines at once.
//
// Of vxlan over IPv6, of which no router cuts a packet, the kernel's own device takes
// the errors in (__udp6_lib_err_encap, net/ipv6/udp.c), but tells nobody.
// It returns nil when ctx is done. The network namespace is that of the calling thread.
func WatchPathMTU(ctx context.Context, encap topology.Encap, node netip.AddrPort, changed func()) error {
	var conns []pmtuConn
	defer func() {
		for _, c := range conns {
			c.conn.Close() //nolint:errcheck // nothing was written
		}
	}()
	for _, s := range pmtuSockets(encap, node) { // here, for threads have namespaces of their own
		conn, err := s.open(ctx)
		if err != nil {
			return fmt.Errorf("listen for path MTUs: %w", err)
		}
		conns = append(conns, conn)
	}
	if len(conns) == 0 {
		<-ctx.Done()
		return nil
	}
	changed()
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range conns {
		g.Go(func() error { return c.follow(ctx, changed) })
	}
	return g.Wait()
}

// pmtuSocket hears of packets that were too big.
type pmtuSocket struct {
	network, address string // for net.ListenConfig
	prepare          func(fd int) error
	drain            func(fd int) (learnt bool, err error) // empties it
}

// pmtuSockets are those for tunnels from an address. An ipip tunnel carries both families.
func pmtuSockets(encap topology.Encap, node netip.AddrPort) []pmtuSocket {
	host, v6 := node.Addr().String(), node.Addr().Is6()
	raw := func(version string, protocol int) pmtuSocket {
		return pmtuSocket{fmt.Sprintf("ip%s:%d", version, protocol), host, errorsOnly(v6), drainErrors}
	}
	switch {
	case encap == topology.EncapIPIP && v6:
		return []pmtuSocket{raw("6", unix.IPPROTO_IPIP), raw("6", unix.IPPROTO_IPV6)}
	case encap == topology.EncapIPIP:
		return []pmtuSocket{raw("4", unix.IPPROTO_IPV6)}
	case encap == topology.EncapVXLAN && v6:
		return []pmtuSocket{{fmt.Sprintf("ip6:%d", unix.IPPROTO_ICMPV6), host, packetsTooBig, drainMessages}}
	}
	return nil
}

// pmtuConn is an open socket.
type pmtuConn struct {
	pmtuSocket
	conn net.PacketConn
	raw  syscall.RawConn
}

func (s pmtuSocket) open(ctx context.Context) (pmtuConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = s.prepare(int(fd)) })
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, s.network, s.address)
	if err != nil {
		return pmtuConn{}, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn() //nolint:errcheck // of all these networks it is
	if err != nil {
		return pmtuConn{}, errors.Join(err, conn.Close())
	}
	return pmtuConn{s, conn, raw}, nil
}

// errorsOnly makes a socket one that gets ICMP errors and no data.
func errorsOnly(v6 bool) func(fd int) error {
	level, recvErr, discover, do := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if v6 {
		level, recvErr, discover, do = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	return func(fd int) error {
		nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
		program := unix.SockFprog{Len: uint16(len(nothing)), Filter: &nothing[0]}
		return errors.Join(
			os.NewSyscallError("SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)),
			os.NewSyscallError("RECVERR", unix.SetsockoptInt(fd, level, recvErr, 1)),
			os.NewSyscallError("MTU_DISCOVER", unix.SetsockoptInt(fd, level, discover, do)),
		)
	}
}

// icmp6TooBig is the type of the message Packet Too Big (RFC 4443 section 3.2).
const icmp6TooBig = 2

// packetsTooBig makes a socket one that gets these messages alone, whatever
// packets they are about (struct icmp6_filter, RFC 3542 section 3.2: a bit set blocks a type).
func packetsTooBig(fd int) error {
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	f.Data[icmp6TooBig/32] &^= 1 << (icmp6TooBig % 32)
	return os.NewSyscallError("ICMPV6_FILTER", unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f))
}

// follow calls changed when a path's MTU is another, until ctx is done.
func (c pmtuConn) follow(ctx context.Context, changed func()) error {
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Now()) })()
	for {
		var learnt bool
		var failed error
		err := c.raw.Read(func(fd uintptr) bool {
			learnt, failed = c.drain(int(fd))
			return learnt || failed != nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil || failed != nil:
			return fmt.Errorf("read path MTUs: %w", errors.Join(err, failed))
		}
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pmtuPause):
		}
	}
}

// drainMessages empties a socket that receives nothing but what tells of a path's MTU.
func drainMessages(fd int) (learnt bool, err error) {
	for {
		_, _, err := unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return learnt, nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return learnt, err
		}
		learnt = learnt || err == nil
	}
}
