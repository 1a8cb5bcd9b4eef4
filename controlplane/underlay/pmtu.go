// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// pmtuPause bounds how often changed is called, for anybody can send ICMP errors.
const pmtuPause = time.Second

// WatchPathMTU has the kernel learn what routers of the underlay say about
// tunnel packets that are too big for them, and calls changed when one has, and
// a first time as soon as it listens: the path's MTU is another then ([PathTo]). The kernel takes an ICMP error in only
// if a socket could have sent the packet it is about (icmp_unreach,
// net/ipv4/icmp.c), and those of our programs have none; so this is one that
// sends and receives nothing.
//
// Only ipip and udp need it: vxlan's outer packets may be fragmented, and
// without a tunnel it is the container that is told. It returns nil when ctx is
// done. The network namespace is that of the calling thread.
func WatchPathMTU(ctx context.Context, encap topology.Encap, node netip.AddrPort, changed func()) error {
	network, address := "", ""
	switch encap {
	case topology.EncapIPIP:
		network, address = fmt.Sprintf("ip4:%d", unix.IPPROTO_IPIP), node.Addr().String()
	case topology.EncapUDP:
		network, address = "udp4", node.String()
	default:
		<-ctx.Done()
		return nil
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = errorsOnly(int(fd)) })
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, network, address)
	if err != nil {
		return fmt.Errorf("listen for path MTUs: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	raw, err := conn.(syscall.Conn).SyscallConn() //nolint:errcheck // of both networks it is
	if err != nil {
		return fmt.Errorf("listen for path MTUs: %w", err)
	}
	changed()
	return readPathMTUs(ctx, raw, changed)
}

// errorsOnly makes a socket one that gets ICMP errors and no data.
func errorsOnly(fd int) error {
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: uint16(len(nothing)), Filter: &nothing[0]}
	return errors.Join(
		os.NewSyscallError("SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)),
		os.NewSyscallError("IP_RECVERR", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)),
		os.NewSyscallError("IP_MTU_DISCOVER", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)),
	)
}

func readPathMTUs(ctx context.Context, raw syscall.RawConn, changed func()) error {
	for {
		var learnt bool
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			learnt, failed = drainErrors(int(fd))
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

// drainErrors empties a socket's error queue, and reports whether a path's MTU
// was among what it held (ip(7), IP_RECVERR).
func drainErrors(fd int) (learnt bool, err error) {
	control := make([]byte, unix.CmsgSpace(sizeofExtendedErr+unix.SizeofSockaddrInet4))
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
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && len(m.Data) >= sizeofExtendedErr &&
			syscall.Errno(binary.NativeEndian.Uint32(m.Data)) == unix.EMSGSIZE {
			return true
		}
	}
	return false
}
