// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"errors"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize = 64
	// bufferSize holds any datagram and any packet. Pages that no packet reaches
	// are never touched.
	bufferSize = 1 << 16
)

// controlSize is room for one control message of a byte or an int (cmsg(3)).
var controlSize = unix.CmsgSpace(4)

// batch is a number of packets on their way, with the arguments that recvmmsg(2)
// and sendmmsg(2) take, set up once so that no packet costs an allocation.
type batch struct {
	buffers  [batchSize][]byte
	lengths  [batchSize]int
	messages [batchSize]message
	iovecs   [batchSize]unix.Iovec
	addrs    [batchSize]unix.RawSockaddrInet4
	controls [batchSize][]byte
}

// message is struct mmsghdr (recvmmsg(2)).
type message struct {
	header unix.Msghdr
	length uint32
}

func newBatch() *batch {
	b := new(batch)
	buffers, controls := make([]byte, batchSize*bufferSize), make([]byte, batchSize*controlSize)
	for i := range b.buffers {
		b.buffers[i], buffers = buffers[:bufferSize:bufferSize], buffers[bufferSize:]
		b.controls[i], controls = controls[:controlSize:controlSize], controls[controlSize:]
		h := &b.messages[i].header
		b.iovecs[i].Base = &b.buffers[i][0]
		h.Iov = &b.iovecs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.addrs[i]))
		h.Control = &b.controls[i][0]
	}
	return b
}

func (b *batch) packet(i int) []byte { return b.buffers[i][:b.lengths[i]] }

// from is the source address of the received datagram i.
func (b *batch) from(i int) netip.Addr { return netip.AddrFrom4(b.addrs[i].Addr) }

// tos is the TOS octet of the received datagram i (IP_RECVTOS).
func (b *batch) tos(i int) byte {
	rest := b.controls[i][:b.messages[i].header.Controllen]
	for len(rest) >= unix.CmsgLen(0) {
		header, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return 0
		}
		if header.Level == unix.IPPROTO_IP && header.Type == unix.IP_TOS && len(data) > 0 {
			return data[0]
		}
		rest = next
	}
	return 0
}

// address makes packet i the message k to be sent, k <= i: to a node, with that
// TOS octet in the outer header.
func (b *batch) address(k, i int, to netip.AddrPort, tos byte) {
	b.buffers[k], b.buffers[i] = b.buffers[i], b.buffers[k]
	b.lengths[k], b.lengths[i] = b.lengths[i], b.lengths[k]
	b.iovecs[k].Base = &b.buffers[k][0]
	b.iovecs[k].SetLen(b.lengths[k])
	b.addrs[k] = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(to.Port()), Addr: to.Addr().As4()}
	h := &b.messages[k].header
	h.Namelen = unix.SizeofSockaddrInet4
	h.SetControllen(controlSize)
	c := (*unix.Cmsghdr)(unsafe.Pointer(h.Control))
	c.Level, c.Type = unix.IPPROTO_IP, unix.IP_TOS
	c.SetLen(unix.CmsgLen(4))
	*(*int32)(unsafe.Pointer(&b.controls[k][unix.CmsgLen(0)])) = int32(tos)
}

// networkOrder is htons(3).
func networkOrder(port uint16) (n uint16) {
	p := (*[2]byte)(unsafe.Pointer(&n))
	p[0], p[1] = byte(port>>8), byte(port)
	return n
}

// receive fills the batch with the datagrams that are there, without waiting,
// and returns their number.
func (b *batch) receive(fd uintptr) (int, error) {
	for i := range b.messages {
		b.iovecs[i].Base = &b.buffers[i][0]
		b.iovecs[i].SetLen(bufferSize)
		h := &b.messages[i].header
		h.Namelen = unix.SizeofSockaddrInet4
		h.SetControllen(controlSize)
	}
	n, err := retry(func() (int, error) { return b.mmsg(unix.SYS_RECVMMSG, fd, b.messages[:]) })
	for i := range n {
		b.lengths[i] = int(b.messages[i].length)
	}
	return n, err
}

// read fills the batch with the packets that the device has, without waiting,
// and returns their number.
func (b *batch) read(fd uintptr) (int, error) {
	for i := range b.buffers {
		n, err := retry(func() (int, error) { return unix.Read(int(fd), b.buffers[i]) })
		if err != nil && i > 0 {
			return i, nil // what is more than "no more for now" comes again
		}
		if err != nil {
			return 0, err
		}
		b.lengths[i] = n
	}
	return batchSize, nil
}

// send sends messages [first, end) without waiting, up to the first that the
// kernel refuses, and returns how many went. The error is of the one after those;
// it comes where that is the first.
func (b *batch) send(fd uintptr, first, end int) (int, error) {
	return retry(func() (int, error) { return b.mmsg(unix.SYS_SENDMMSG, fd, b.messages[first:end]) })
}

// mmsg calls recvmmsg(2) or sendmmsg(2), of which golang.org/x/sys has the numbers
// only.
func (b *batch) mmsg(call, fd uintptr, m []message) (int, error) {
	n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// retry calls again what a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// source fills a batch from a file descriptor, waiting for the first packet.
type source struct {
	conn syscall.RawConn
	fill func(fd uintptr) (int, error)
	// The outcome of the last fill.
	n   int
	err error
	// try as the two kinds of function that RawConn takes, made once.
	wait func(fd uintptr) bool
	once func(fd uintptr)
}

func newSource(conn syscall.RawConn, fill func(fd uintptr) (int, error)) *source {
	s := &source{conn: conn, fill: fill}
	s.wait = s.try
	s.once = func(fd uintptr) { s.try(fd) }
	return s
}

// try reports whether there is something to do: packets, or a failure.
func (s *source) try(fd uintptr) bool {
	s.n, s.err = s.fill(fd)
	return !errors.Is(s.err, unix.EAGAIN)
}

// next waits for packets and returns how many are in the batch.
// os.ErrDeadlineExceeded is the end of waiting.
func (s *source) next() (int, error) {
	if err := s.conn.Read(s.wait); err != nil {
		return 0, err
	}
	return s.n, s.err
}

// left takes what is there, without waiting; none is no error.
func (s *source) left() (int, error) {
	if err := s.conn.Control(s.once); err != nil {
		return 0, err
	}
	if errors.Is(s.err, unix.EAGAIN) {
		return 0, nil
	}
	return s.n, s.err
}
