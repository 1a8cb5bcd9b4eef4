// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// TransferTCP sends size random bytes over one TCP connection from a namespace
// to an address of another. It fails unless they all arrive as they were sent. When it
// returns the connection has said its last word.
func TransferTCP(ctx context.Context, from, to Namespace, dst netip.Addr, size int64) error {
	l, err := to.Listen(ctx, "tcp", netip.AddrPortFrom(dst, 0).String())
	if err != nil {
		return fmt.Errorf("transfer to %s: %w", dst, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	type outcome struct {
		sum uint32
		n   int64
		err error
	}
	arrived := make(chan outcome, 1)
	go func() {
		sum, n, err := receiveTCP(ctx, l)
		arrived <- outcome{sum, n, err}
	}()
	sum, sendErr := sendTCP(ctx, from, l.Addr().String(), size)
	if sendErr != nil {
		_ = l.Close() // ends a wait for a connection that does not come
	}
	got := <-arrived
	closeErr := l.Close()
	if errors.Is(closeErr, net.ErrClosed) {
		closeErr = nil
	}
	if err := errors.Join(sendErr, got.err, closeErr); err != nil {
		return fmt.Errorf("transfer to %s: %w", dst, err)
	}
	if got.n != size || got.sum != sum {
		return fmt.Errorf("transfer to %s: sent %d bytes with checksum %08x, received %d with %08x", dst, size, sum, got.n, got.sum)
	}
	return nil
}

func sendTCP(ctx context.Context, from Namespace, address string, size int64) (sum uint32, err error) {
	conn, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	h := crc32.New(castagnoli)
	random := rand.NewChaCha8([32]byte{})
	_, err = io.CopyBuffer(io.MultiWriter(conn, h), io.LimitReader(random, size), make([]byte, 1<<20))
	if err = errors.Join(err, conn.(*net.TCPConn).CloseWrite()); err == nil { //nolint:errcheck // what tcp gives
		_, err = io.Copy(io.Discard, conn) // until the receiver has closed
	}
	return h.Sum32(), errors.Join(err, conn.Close())
}

func receiveTCP(ctx context.Context, l net.Listener) (sum uint32, n int64, err error) {
	conn, err := l.Accept()
	if err != nil {
		return 0, 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	h := crc32.New(castagnoli)
	n, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{conn}, make([]byte, 1<<20))
	return h.Sum32(), n, errors.Join(err, CloseAcknowledged(conn.(*net.TCPConn))) //nolint:errcheck // what tcp gives
}

// CloseAcknowledged closes a connection and waits until the other end, which has ended
// its half before, has acknowledged that (SO_LINGER, socket(7)): no packet of it is under way then.
func CloseAcknowledged(c *net.TCPConn) error {
	const linger = Patience * 5 // seconds
	return errors.Join(c.SetLinger(linger), c.Close())
}

// UDPOptions say what datagrams to send.
type UDPOptions struct {
	Count    int           // datagrams
	Size     int           // of each, bytes; at least 8
	Segments int           // datagrams handed to the kernel as one superpacket (USO); 0 or 1: each by itself
	DF       bool          // do not fragment; otherwise datagrams over the MTU are
	Interval time.Duration // between sends
	Timeout  time.Duration // for the last ones; 0: 1 s
}

// TransferUDP sends datagrams from a namespace to an address of another and
// returns how many distinct ones arrived as they were sent.
func TransferUDP(ctx context.Context, from, to Namespace, dst netip.Addr, o UDPOptions) (received int, err error) {
	if o.Timeout == 0 {
		o.Timeout = Patience * time.Second
	}
	var in *net.UDPConn
	err = to.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("receive datagrams at %s: %w", dst, err)
	}
	defer in.Close() //nolint:errcheck // what arrived has been read
	count := make(chan int, 1)
	go func() { count <- receiveUDP(in, o) }()
	sendErr := sendUDP(ctx, from, in.LocalAddr().String(), o)
	if err := in.SetReadDeadline(time.Now().Add(o.Timeout)); err != nil {
		return 0, fmt.Errorf("receive datagrams at %s: %w", dst, err)
	}
	received = <-count
	if sendErr != nil {
		return received, fmt.Errorf("send datagrams to %s: %w", dst, sendErr)
	}
	return received, nil
}

// datagram is the nth: its number, then bytes that follow from it.
func datagram(number, size int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(number))
	for len(b) < size {
		b = append(b, byte(number+len(b)))
	}
	return b
}

func sendUDP(ctx context.Context, from Namespace, address string, o UDPOptions) error {
	conn, err := from.Dial(ctx, "udp", address)
	if err != nil {
		return err
	}
	if err := setUDPOptions(conn, o); err != nil {
		return errors.Join(err, conn.Close())
	}
	burst := max(o.Segments, 1)
	tick := time.NewTicker(max(o.Interval, time.Nanosecond))
	defer tick.Stop()
	for first := 0; first < o.Count; first += burst {
		var b []byte
		for n := first; n < min(first+burst, o.Count); n++ {
			b = append(b, datagram(n, o.Size)...)
		}
		if _, err := conn.Write(b); err != nil {
			return errors.Join(err, conn.Close())
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), conn.Close())
		case <-tick.C:
		}
	}
	return conn.Close()
}

func setUDPOptions(conn net.Conn, o UDPOptions) error {
	udp := conn.(*net.UDPConn) //nolint:errcheck // what udp gives
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = setDF(int(fd), udp.LocalAddr().(*net.UDPAddr).IP.To4() == nil, o.DF) //nolint:errcheck // what udp gives
		if o.Segments > 1 {
			optErr = errors.Join(optErr, unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, o.Size))
		}
	})
	return errors.Join(err, optErr)
}

// receiveUDP counts datagrams until all are there or the deadline has passed.
func receiveUDP(in *net.UDPConn, o UDPOptions) int {
	seen := make(map[uint64]bool)
	buf := make([]byte, 65536)
	for len(seen) < o.Count {
		n, err := in.Read(buf)
		if err != nil {
			break
		}
		if n != o.Size || n < 8 {
			continue
		}
		number := binary.BigEndian.Uint64(buf)
		if string(buf[:n]) == string(datagram(int(number), n)) {
			seen[number] = true
		}
	}
	return len(seen)
}

// setDF has a socket's packets never be cut: IPv4's don't-fragment bit, and for
// IPv6 the sender's own promise (RFC 3542, 11.2).
func setDF(fd int, ipv6, on bool) error {
	discover := unix.IP_PMTUDISC_DONT // IPv6's constants have the same values
	if on {
		discover = unix.IP_PMTUDISC_DO
	}
	if !ipv6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover)
	}
	dontFragment := 0
	if on {
		dontFragment = 1
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, discover),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, dontFragment))
}
