// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// kind is a kind of traffic.
type kind struct {
	name string
	tos  uint8 // that it is sent with
	run  func(ctx context.Context, r *row) error
	ttl  uint8 // of what is sent raw; 0 is 64
	df   bool  // likewise
}

const usualTTL = 64

func (k kind) sentTTL() uint8 {
	if k.ttl != 0 {
		return k.ttl
	}
	return usualTTL
}

// dscp is expedited forwarding (RFC 3246): it stays the inner packet's own.
const dscp, ect0 = 0xb8, 2

const udpGSO = "UDP GSO"

var kinds = []kind{
	{name: "TCP, small segments", tos: dscp | ect0, run: tcpWrites(100, 1, 40, 1000, 17)},
	{name: "TCP", tos: dscp | ect0, run: tcpWrites(256 << 10)},
	{name: "UDP", tos: dscp | ect0, run: datagramsOf(func(mtu int) []int { return []int{1, 2, 17, 100, 1000, mtu - 1, mtu} })},
	{name: "UDP in fragments", tos: dscp | ect0, run: datagramsOf(func(mtu int) []int { return []int{mtu + 1, 2*mtu - 48, 5000, 30000, 65507} })},
	{name: udpGSO, tos: dscp | ect0, run: superDatagrams},
	{name: "UDP in fragments out of order", tos: dscp | ect0, run: shuffledFragments},
	{name: "UDP with a wrong checksum", tos: dscp | ect0, run: corrupted},
	{name: "ICMP", tos: 0, run: pings},
	{name: "SCTP", tos: dscp | ect0, run: sctp},
}

// visibleKinds are those that can be looked at: UDP superpackets kernels before 6.2 give
// to no packet socket that asks what they are (virtio_net_hdr_from_skb() of include/linux/virtio_net.h).
func visibleKinds(t *testing.T) []kind {
	t.Helper()
	if kernelBefore(t, 6, 2) {
		return slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return k.name == udpGSO })
	}
	return kinds
}

// wrong says whether the kind has packets with wrong checksums.
func (k kind) wrong() bool { return strings.Contains(k.name, "wrong checksum") }

// sourceOf is the address that a namespace sends to dst from.
func sourceOf(t *testing.T, n lab.Namespace, dst netip.Addr) netip.Addr {
	t.Helper()
	c, err := n.Dial(t.Context(), "udp", netip.AddrPortFrom(dst, 9).String())
	noError(t, err)
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// control sets options of a socket.
func control(c *net.UDPConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) { optErr = f(int(fd)) })
	return errors.Join(err, optErr)
}

// setTOS sets what a socket sends; of TCP its ECN field is the kernel's.
func (r *row) setTOS(fd int) error {
	if r.family == lab.V6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(r.kind.tos))
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(r.kind.tos))
}

// tcpWrites sends writes of those sizes over a connection, each at once.
func tcpWrites(sizes ...int) func(context.Context, *row) error {
	return func(ctx context.Context, r *row) error {
		total := 0
		for _, size := range sizes {
			total += size
		}
		payload := randomBytes(total)
		l, err := r.to.ns.Listen(ctx, "tcp", netip.AddrPortFrom(r.to.addr, 0).String())
		if err != nil {
			return err
		}
		got, result := make([]byte, 0, total), make(chan error, 1)
		go func() { result <- acceptAll(ctx, l, &got) }()
		err = r.sendTCP(ctx, l.Addr().String(), payload, sizes)
		if err != nil {
			_ = l.Close() // ends the wait for a connection
		}
		err = errors.Join(err, <-result)
		_ = l.Close()
		if err == nil && !bytes.Equal(got, payload) {
			err = fmt.Errorf("%d bytes sent, %d received that are not those", len(payload), len(got))
		}
		return err
	}
}

func acceptAll(ctx context.Context, l net.Listener, got *[]byte) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	b := bytes.NewBuffer(*got)
	_, err = b.ReadFrom(conn)
	*got = b.Bytes()
	return errors.Join(err, lab.CloseAcknowledged(conn.(*net.TCPConn)))
}

func (r *row) sendTCP(ctx context.Context, address string, payload []byte, sizes []int) error {
	var conn net.Conn
	err := r.from.ns.Do(func() (err error) {
		d := net.Dialer{Control: func(_, _ string, c syscallConn) error {
			var optErr error
			return errors.Join(c.Control(func(fd uintptr) { optErr = r.setTOS(int(fd)) }), optErr)
		}}
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	for _, size := range sizes {
		if _, err = conn.Write(payload[:size]); err != nil {
			return errors.Join(err, conn.Close())
		}
		payload = payload[size:]
	}
	tcp := conn.(*net.TCPConn)
	err = tcp.CloseWrite()
	_, readErr := io.ReadAll(conn) // until the other end has closed: nothing comes any more
	return errors.Join(err, readErr, conn.Close())
}

// sockets are a receiver and a connected sender of datagrams.
func (r *row) sockets() (in, out *net.UDPConn, err error) {
	err = r.to.ns.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.to.addr, 0)))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = r.from.ns.Do(func() (err error) {
		out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err == nil {
		err = errors.Join(control(out, r.setTOS), control(in, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		}))
	}
	if err != nil {
		_ = in.Close()
		return nil, nil, err
	}
	return in, out, nil
}

// expect reads a datagram that has to be that one.
func expect(ctx context.Context, in net.PacketConn, want []byte) error {
	defer context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Now()) })()
	b := make([]byte, 70000)
	n, _, err := in.ReadFrom(b)
	if err != nil {
		return fmt.Errorf("a datagram of %d bytes: %w", len(want), err)
	}
	if !bytes.Equal(b[:n], want) {
		return fmt.Errorf("received %d bytes that are not the %d sent", n, len(want))
	}
	return nil
}

// ipHeader is that of the row's family, bytes.
func (r *row) ipHeader() int {
	if r.family == lab.V6 {
		return 40
	}
	return 20
}

// datagramsOf sends datagrams whose IP packets, uncut, are of those sizes, each when the one before has arrived.
func datagramsOf(sizes func(mtu int) []int) func(context.Context, *row) error {
	return func(ctx context.Context, r *row) error {
		in, out, err := r.sockets()
		if err != nil {
			return err
		}
		defer in.Close()
		defer out.Close()
		for _, size := range sizes(r.Options.ContainerMTU()) {
			payload := randomBytes(max(1, min(size, 65535)-r.ipHeader()-8))
			if _, err := out.Write(payload); err != nil {
				return err
			}
			if err := expect(ctx, in, payload); err != nil {
				return err
			}
		}
		return nil
	}
}

// superDatagrams hands datagrams to the kernel many at a time (UDP_SEGMENT): of
// all sizes, with a shorter one at the end, and up to what one call takes.
func superDatagrams(ctx context.Context, r *row) error {
	in, out, err := r.sockets()
	if err != nil {
		return err
	}
	defer in.Close()
	defer out.Close()
	full, largest := r.Options.ContainerMTU()-r.ipHeader()-8, 65535-20-8 // of IPv6 as well (udp_sendmsg(), udpv6_sendmsg())
	for _, s := range []struct{ segment, total int }{
		{1000, 20000}, {1, 64}, {17, 17*40 + 3}, {full, full * min(30, largest/full)}, {full, largest}, {512, 513},
	} {
		if err := control(out, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, s.segment) }); err != nil {
			return err
		}
		payload := randomBytes(s.total)
		if _, err := out.Write(payload); err != nil {
			return err
		}
		if err := r.expectAll(ctx, in, slices.Collect(slices.Chunk(payload, s.segment))); err != nil {
			return fmt.Errorf("%d bytes in segments of %d: %w", s.total, s.segment, err)
		}
	}
	return nil
}

// expectAll reads as many datagrams, which have to be those, and in that order
// unless GRO merges only some of them: out of VXLAN the merged ones take the
// kernel's device, and are overtaken by those that do not (PASS_UDP_SUPERPACKET).
// Or else the kernel's device for IP in IP has two queues for them: one for those
// that our capture still holds (gro_cells_receive() of net/core/gro_cells.c).
func (r *row) expectAll(ctx context.Context, in net.PacketConn, want [][]byte) error {
	defer context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Now()) })()
	var got [][]byte
	b := make([]byte, 70000)
	for range want {
		n, _, err := in.ReadFrom(b)
		if err != nil {
			return fmt.Errorf("%d of %d datagrams: %w", len(got), len(want), err)
		}
		got = append(got, bytes.Clone(b[:n]))
	}
	ebpf, netlink := slices.Contains(r.dataplanes[:], node.EBPF), slices.Contains(r.dataplanes[:], node.Netlink)
	if r.offload.gro && r.backend == topology.EncapVXLAN && ebpf || r.backend == topology.EncapIPIP && netlink {
		slices.SortFunc(want, bytes.Compare)
		slices.SortFunc(got, bytes.Compare)
	}
	if !slices.EqualFunc(want, got, bytes.Equal) {
		return errors.New("other datagrams arrived than were sent, or in another order")
	}
	return nil
}

// pings asks for answers of all sizes, with fragments both ways.
func pings(ctx context.Context, r *row) error {
	mtu := r.Options.ContainerMTU()
	for _, size := range []int{16, 56, 1000, mtu - r.ipHeader() - 8, 8000} {
		got, err := r.from.ns.Ping(ctx, r.to.addr, lab.PingOptions{Count: 2, Interval: time.Millisecond, Size: size, Timeout: timeout})
		if err != nil {
			return err
		}
		if got.Received != 2 || got.Damaged+got.Duplicates+len(got.Errors) > 0 {
			return fmt.Errorf("ping of %d bytes: %+v", size, got)
		}
		if ttls, want := got.TTLs(), 64-r.way.hops; len(ttls) != 1 || ttls[0] != want {
			return fmt.Errorf("TTL %v of the answers, want %d", ttls, want)
		}
	}
	return nil
}
