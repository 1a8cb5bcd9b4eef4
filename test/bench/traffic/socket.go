// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	backlog    = 1024
	udpReceive = 8 << 20 // bytes of socket buffer for datagrams not read yet
)

func sockaddr(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, unix.AF_INET6
}

func socket(family int, udp bool) (int, error) {
	kind := unix.SOCK_STREAM
	if udp {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	return fd, nil
}

// listen opens a port of the kernel's choice.
func listen(addr netip.Addr, udp bool) (fd int, port uint16, err error) {
	sa, family := sockaddr(netip.AddrPortFrom(addr, 0))
	fd, err = socket(family, udp)
	if err != nil {
		return -1, 0, err
	}
	if err = unix.Bind(fd, sa); err != nil {
		return -1, 0, errors.Join(fmt.Errorf("listen on %s (is it an address of this host?): %w", addr, err), unix.Close(fd))
	}
	if udp {
		// Beyond the system's limit where that is allowed, up to it elsewhere.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpReceive) != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpReceive)
		}
	} else {
		err = unix.Listen(fd, backlog)
	}
	if err == nil {
		port, err = localPort(fd)
	}
	if err != nil {
		return -1, 0, errors.Join(fmt.Errorf("listen on %s: %w", addr, err), unix.Close(fd))
	}
	return fd, port, nil
}

func localPort(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, errors.New("socket of an unexpected family")
}

// dial connects to a listener.
func dial(to netip.AddrPort, udp bool) (int, error) {
	sa, family := sockaddr(to)
	fd, err := socket(family, udp)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %s: %w", to, err), unix.Close(fd))
	}
	return fd, nil
}

func noDelay(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	return nil
}

// shut wakes whoever is blocked on a socket. Of one that is not connected the
// kernel does it too, but says ENOTCONN.
func shut(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }

// The calls below go round Go's scheduler: see the package's comment.

func send(fd int, b []byte) (int, error) {
	return call(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL)
}

func receive(fd int, b []byte) (int, error) {
	return call(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
}

func accept(fd int) (int, error) {
	return call(unix.SYS_ACCEPT4, fd, 0, 0, unix.SOCK_CLOEXEC)
}

// message is struct mmsghdr (recvmmsg(2)).
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// messages are count datagrams of size bytes, ready for the kernel. They share
// one buffer: what is in them is nobody's interest.
func messages(count, size int) []message {
	iov := &unix.Iovec{Base: &make([]byte, size)[0]}
	iov.SetLen(size)
	all := make([]message, count)
	for i := range all {
		all[i].header.Iov = iov
		all[i].header.SetIovlen(1)
	}
	return all
}

func sendMessages(fd int, m []message) (int, error) {
	return call(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_NOSIGNAL)
}

// receiveMessages takes what is there.
func receiveMessages(fd int, m []message) (int, error) {
	return call(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT)
}

func nap(ns int64) {
	ts := unix.NsecToTimespec(ns)
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0) // cut short is short enough
}

// call makes a system call again until no signal interrupts it. What a and b
// point to stays where it is meanwhile.
//
//go:uintptrescapes
func call(trap uintptr, fd int, a, b, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(trap, uintptr(fd), a, b, flags, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
