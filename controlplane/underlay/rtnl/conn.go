// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Conn is an rtnetlink socket for requests by the hundred thousand: it makes
// and reads them in buffers of its own, in a third of the time that a
// [netlink.Handle] takes. Not for concurrent use.
type Conn struct {
	fd  int
	seq uint32
	out []byte
	in  []byte
	one bool // the answer is one message, without another that says it is all
}

// receiveBytes is what the kernel puts into one datagram of a dump at most
// (netlink_dump in net/netlink/af_netlink.c), where as much can be received.
const receiveBytes = 32 << 10

// Dial opens one in the network namespace of the calling thread.
func Dial() (*Conn, error) { return dial(0) }

// dial opens one with this port of its own, 0 for any.
func dial(port uint32) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{fd: fd, in: make([]byte, receiveBytes)}
	silence := unix.NsecToTimeval(timeout.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &silence),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}),
		unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}), // to the kernel, and from it alone
	)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return c, nil
}

// Close releases the socket. There is nothing in it that could fail to be written.
func (c *Conn) Close() { _ = unix.Close(c.fd) }

// Request begins a request: its type, flags beside NLM_F_REQUEST, and the
// header that its type has. The one before is done with.
func (c *Conn) Request(kind, flags uint16, header ...byte) *Request {
	c.seq++
	b := append(c.out[:0], 0, 0, 0, 0) // the length
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = append(b, 0, 0, 0, 0) // the sender's port, which the kernel knows
	c.out, c.one = append(b, header...), false
	return &Request{c}
}

// Request is one that is being made; its header and attributes are aligned to 4 bytes.
type Request struct{ c *Conn }

// Attr adds an attribute (struct nlattr, include/uapi/linux/netlink.h).
func (r *Request) Attr(kind uint16, data ...byte) *Request {
	r.c.out = AppendAttr(r.c.out, kind, data)
	return r
}

// AppendAttr appends an attribute, for one that is nested in another.
func AppendAttr(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// Uint32 adds an attribute of four bytes in host byte order.
func (r *Request) Uint32(kind uint16, v uint32) *Request {
	return r.Attr(kind, binary.NativeEndian.AppendUint32(nil, v)...)
}

// Do has the kernel do it; the error is its own errno.
func (r *Request) Do() error {
	binary.NativeEndian.PutUint16(r.c.out[6:], binary.NativeEndian.Uint16(r.c.out[6:])|unix.NLM_F_ACK)
	return r.c.talk(func([]byte) {})
}

// Get calls f with the message that is the answer, without its struct nlmsghdr.
func (r *Request) Get(f func(msg []byte)) error {
	r.c.one = true
	return r.c.talk(f)
}

// Dump calls f with each message of the answer, without its struct nlmsghdr.
// It is netlink.ErrDumpInterrupted where what is listed changed meanwhile, for
// which see [List].
func (r *Request) Dump(f func(msg []byte)) error {
	binary.NativeEndian.PutUint16(r.c.out[6:], binary.NativeEndian.Uint16(r.c.out[6:])|unix.NLM_F_DUMP)
	return r.c.talk(f)
}

// talk sends the request and reads until the kernel says that it is done.
func (c *Conn) talk(f func([]byte)) error {
	binary.NativeEndian.PutUint32(c.out, uint32(len(c.out)))
	if _, err := unix.Write(c.fd, c.out); err != nil {
		return os.NewSyscallError("send", err)
	}
	interrupted := false
	for {
		n, err := unix.Read(c.fd, c.in)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("receive", err)
		}
		done, again, err := c.read(c.in[:n], f)
		interrupted = interrupted || again
		switch {
		case err != nil:
			return err
		case done && interrupted:
			return netlink.ErrDumpInterrupted
		case done:
			return nil
		}
	}
}

var errMalformed = errors.New("malformed netlink message")

// read takes one datagram, which may answer an earlier request that was given up.
func (c *Conn) read(b []byte, f func([]byte)) (done, interrupted bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		kind, flags, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return true, false, errMalformed
		}
		data := b[unix.SizeofNlMsghdr:length]
		b = b[min((length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
		if seq != c.seq {
			continue
		}
		interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch kind {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE: // struct nlmsgerr, or its errno alone
			if len(data) >= 4 {
				if errno := int32(binary.NativeEndian.Uint32(data)); errno != 0 {
					return true, interrupted, unix.Errno(-errno)
				}
			}
			return true, interrupted, nil
		default:
			f(data)
			done = c.one
		}
	}
	return done, interrupted, nil
}

// Attributes calls f with each attribute behind a header of a message, as far
// as they can be read (struct nlattr, include/uapi/linux/netlink.h).
func Attributes(msg []byte, header int, f func(kind uint16, data []byte)) {
	for rest := msg[min(header, len(msg)):]; len(rest) >= unix.SizeofNlAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofNlAttr || length > len(rest) {
			return
		}
		kind := binary.NativeEndian.Uint16(rest[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		f(kind, rest[unix.SizeofNlAttr:length])
		rest = rest[min((length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(rest)):]
	}
}
