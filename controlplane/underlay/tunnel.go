// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// pmtuPause bounds how often PathMTU is called, for anybody can send ICMP errors.
const pmtuPause = time.Second

// TunnelEvents are what [ListenTunnel] tells of, one at a time each, both at once.
type TunnelEvents struct {
	// PathMTU: a router has said that a tunnel packet was too big for it, so that a path's MTU is another
	// now ([PathTo]). Also called as soon as anybody listens.
	PathMTU func()
	// Whole: the kernel has put a tunnel packet together whose first fragment is marked. inner is what it
	// carried, valid until Whole returns, tos the outer header's TOS octet.
	Whole func(inner []byte, tos byte)
}

// ListenTunnel stands in for the device that an ipip or udp tunnel of our programs
// does not have: with a socket of its protocol the kernel
//
//   - learns the MTUs that routers tell. It takes an ICMP error in only if a socket could have sent the packet
//     it is about (icmp_unreach, net/ipv4/icmp.c), and those of our programs have none;
//   - puts fragments of tunnel packets together, which a program cannot, and has somebody to give them to. Only
//     packets with all bits of mark are taken: the kernel gives the whole packet the first fragment's mark.
//
// VXLAN needs neither: its device is there, and its packets may be cut. Without a
// tunnel there is none. It returns nil when ctx is done. The network namespace is
// that of the calling thread.
func ListenTunnel(ctx context.Context, encap topology.Encap, node netip.AddrPort, mark uint32, on TunnelEvents) error {
	network, address, inner := "", "", datagram
	switch encap {
	case topology.EncapIPIP:
		network, address, inner = fmt.Sprintf("ip4:%d", unix.IPPROTO_IPIP), node.Addr().String(), ipPayload
	case topology.EncapUDP:
		network, address = "udp4", node.String()
	default:
		<-ctx.Done()
		return nil
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = setUp(int(fd), mark) })
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, network, address)
	if err != nil {
		return fmt.Errorf("listen for tunnel packets: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	raw, err := conn.(syscall.Conn).SyscallConn() //nolint:errcheck // of both networks it is
	if err != nil {
		return fmt.Errorf("listen for tunnel packets: %w", err)
	}
	learnt := make(chan struct{}, 1)
	learnt <- struct{}{}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return tellPathMTU(ctx, learnt, on.PathMTU) })
	g.Go(func() error {
		return readTunnel(ctx, raw, learnt, func(p []byte, tos byte) { inner(p, tos, on.Whole) })
	})
	return g.Wait()
}

// tunnelBuffer is room for what arrives while nobody reads, bytes.
const tunnelBuffer = 4 << 20

// setUp makes a socket one that gets ICMP errors, and of data only what is marked.
func setUp(fd int, mark uint32) error {
	const everything = 0xffffffff
	marked := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfAdOff + skfAdMark},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mark},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: mark, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: everything},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := unix.SockFprog{Len: uint16(len(marked)), Filter: &marked[0]}
	set := func(level, option, value int) error { return unix.SetsockoptInt(fd, level, option, value) }
	return errors.Join(
		os.NewSyscallError("SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)),
		os.NewSyscallError("SO_RCVBUFFORCE", set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tunnelBuffer)),
		os.NewSyscallError("IP_RECVERR", set(unix.IPPROTO_IP, unix.IP_RECVERR, 1)),
		os.NewSyscallError("IP_RECVTOS", set(unix.IPPROTO_IP, unix.IP_RECVTOS, 1)),
		os.NewSyscallError("IP_MTU_DISCOVER", set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)),
	)
}

// Of include/uapi/linux/filter.h: where a classic filter reads a packet's mark.
const (
	skfAdOff  = 0xfffff000 // SKF_AD_OFF, -0x1000
	skfAdMark = 20         // SKF_AD_MARK
)

func tellPathMTU(ctx context.Context, learnt <-chan struct{}, tell func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-learnt:
		}
		tell()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pmtuPause):
		}
	}
}

// readTunnel reads errors and data until ctx is done.
func readTunnel(ctx context.Context, raw syscall.RawConn, learnt chan<- struct{}, data func(p []byte, tos byte)) error {
	buf := make([]byte, math.MaxUint16)
	for {
		var mtu bool
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			var read bool
			mtu, failed = drainErrors(int(fd))
			if failed == nil {
				read, failed = drainData(int(fd), buf, data)
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
			select {
			case learnt <- struct{}{}:
			default: // not told of the last one yet
			}
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

// tosOf is the TOS octet in a datagram's control messages (ip(7), IP_RECVTOS).
func tosOf(control []byte) byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS && len(m.Data) > 0 {
			return m.Data[0]
		}
	}
	return 0
}

// datagram: the inner packet is all of it.
func datagram(p []byte, tos byte, whole func([]byte, byte)) { whole(p, tos) }

// ipPayload: a raw socket gets the outer header as well.
func ipPayload(p []byte, _ byte, whole func([]byte, byte)) {
	if len(p) == 0 {
		return
	}
	if header := int(p[0]&0xf) * 4; header <= len(p) {
		whole(p[header:], p[1])
	}
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
