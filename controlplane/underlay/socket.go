// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket receives for a tunnel.
type socket struct {
	network, address string // for net.ListenConfig
	prepare          func(fd int) error
	data             func(p []byte, tos byte) // what has come; p is valid until it returns

	// Once open:
	conn net.PacketConn
	raw  syscall.RawConn
}

func (s *socket) open(ctx context.Context) error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = s.prepare(int(fd)) })
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	raw, err := conn.(syscall.Conn).SyscallConn() //nolint:errcheck // of all these networks it is
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.conn, s.raw = conn, raw
	return nil
}

// socketBuffer is room for what arrives while nobody reads, bytes.
const socketBuffer = 4 << 20

// takeMarked makes a socket one that gets of data only what has all bits of mark.
func takeMarked(fd int, mark uint32) error {
	const everything = 0xffffffff
	marked := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfAdOff + skfAdMark},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mark},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: mark, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: everything},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := unix.SockFprog{Len: uint16(len(marked)), Filter: &marked[0]}
	return errors.Join(
		os.NewSyscallError("SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)),
		os.NewSyscallError("SO_RCVBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)),
	)
}

// Of include/uapi/linux/filter.h: where a classic filter reads a packet's mark.
const (
	skfAdOff  = 0xfffff000 // SKF_AD_OFF, -0x1000
	skfAdMark = 20         // SKF_AD_MARK
)

// takeErrors makes a socket one that gets ICMP errors, and with data its TOS octet.
func takeErrors(fd int, v6 bool) error {
	level, recvErr, recvTOS, discover, do := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_RECVTOS, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if v6 {
		level, recvErr, recvTOS, discover, do = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_RECVTCLASS, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	return errors.Join(
		os.NewSyscallError("RECVERR", unix.SetsockoptInt(fd, level, recvErr, 1)),
		os.NewSyscallError("RECVTOS", unix.SetsockoptInt(fd, level, recvTOS, 1)),
		os.NewSyscallError("MTU_DISCOVER", unix.SetsockoptInt(fd, level, discover, do)),
	)
}

// icmp6TooBig is the type of the message Packet Too Big (RFC 4443 section 3.2).
const icmp6TooBig = 2

// takePacketTooBig makes an ICMPv6 socket one that gets these messages alone, whatever
// packets they are about (struct icmp6_filter, RFC 3542 section 3.2: a bit set blocks a type).
func takePacketTooBig(fd int) error {
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	f.Data[icmp6TooBig/32] &^= 1 << (icmp6TooBig % 32)
	return os.NewSyscallError("ICMPV6_FILTER", unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f))
}

// read gives away what comes, and calls tooBig for errors of that kind, until ctx is done.
func (s *socket) read(ctx context.Context, tooBig func()) error {
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Now()) })()
	buf := make([]byte, math.MaxUint16)
	for {
		var mtu bool
		var failed error
		err := s.raw.Read(func(fd uintptr) bool {
			var read bool
			mtu, failed = drainErrors(int(fd))
			if failed == nil {
				read, failed = drainData(int(fd), buf, s.data)
			}
			return mtu || read || failed != nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil || failed != nil:
			return fmt.Errorf("read tunnel packets: %w", errors.Join(err, failed))
		}
		if mtu {
			tooBig()
		}
	}
}

// drainBatch is how much data is read before errors are looked at again.
const drainBatch = 64

// drainData reads what the socket holds, and reports whether that was anything.
func drainData(fd int, buf []byte, data func(p []byte, tos byte)) (read bool, err error) {
	control := make([]byte, unix.CmsgSpace(4))
	for range drainBatch {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, control, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return read, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // an ICMP error that has come since: drainErrors is to look again
			return true, nil
		}
		read = true
		data(buf[:n], tosOf(control[:oobn]))
	}
	return read, nil
}

// tosOf is the TOS octet in a datagram's control messages, a byte (ip(7), IP_RECVTOS), or
// the traffic class, an int (RFC 3542 section 6.5).
func tosOf(control []byte) byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS && len(m.Data) > 0:
			return m.Data[0]
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS && len(m.Data) >= 4:
			return byte(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

// drainErrors empties a socket's error queue, and reports whether a path's MTU
// was among what it held (ip(7), IP_RECVERR).
func drainErrors(fd int) (learnt bool, err error) {
	control := make([]byte, unix.CmsgSpace(sizeofExtendedErr+unix.SizeofSockaddrInet6))
	for {
		_, n, _, _, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return learnt, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return learnt, err
		}
		learnt = learnt || tooBig(control[:n])
	}
}

// sizeofExtendedErr is that of struct sock_extended_err (include/uapi/linux/errqueue.h).
const sizeofExtendedErr = 16

// tooBig reports whether control messages tell of a packet that did not fit: the
// first field of struct sock_extended_err, ee_errno, is EMSGSIZE.
func tooBig(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (v4 || v6) && len(m.Data) >= sizeofExtendedErr &&
			syscall.Errno(binary.NativeEndian.Uint32(m.Data)) == unix.EMSGSIZE {
			return true
		}
	}
	return false
}
