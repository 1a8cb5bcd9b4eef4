// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// icmpSocket is an ICMP socket of either family.
type icmpSocket struct {
	conn           net.PacketConn
	request, reply icmp.Type
	protocol       int // of icmp.ParseMessage
	header         int // bytes of IP header that an ICMP error quotes before the request
	// receive reads a message and its TTL; -1 if that is not told.
	receive func(b []byte) (n, ttl int, err error)
}

// pingBuffer is room for what arrives while a busy machine lets nobody read,
// bytes: a raw socket gets all ICMP of its namespace.
const pingBuffer = 8 << 20

// listenICMP opens a socket of dst's family in the namespace of the calling thread.
func listenICMP(ctx context.Context, dst netip.Addr, df bool) (*icmpSocket, error) {
	s := &icmpSocket{request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, protocol: unix.IPPROTO_ICMP, header: 20}
	network, local := "ip4:icmp", "0.0.0.0"
	if dst.Is6() {
		s = &icmpSocket{request: ipv6.ICMPTypeEchoRequest, reply: ipv6.ICMPTypeEchoReply, protocol: unix.IPPROTO_ICMPV6, header: 40}
		network, local = "ip6:ipv6-icmp", "::"
	}
	c, err := new(net.ListenConfig).ListenPacket(ctx, network, local)
	if err != nil {
		return nil, err
	}
	s.conn = c
	if err = errors.Join(setICMPOptions(c.(*net.IPConn), dst.Is6(), df), s.tellTTL(dst.Is6())); err != nil { //nolint:errcheck // what ip4 and ip6 give
		return nil, errors.Join(err, c.Close())
	}
	return s, nil
}

func setICMPOptions(c *net.IPConn, ipv6, df bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, pingBuffer)
		if df {
			optErr = errors.Join(optErr, setDF(int(fd), ipv6, true))
		}
	})
	return errors.Join(err, optErr)
}

func (s *icmpSocket) tellTTL(is6 bool) error {
	if is6 {
		c := ipv6.NewPacketConn(s.conn)
		s.receive = func(b []byte) (n, ttl int, err error) {
			n, cm, _, err := c.ReadFrom(b)
			if cm == nil {
				return n, -1, err
			}
			return n, cm.HopLimit, err
		}
		return c.SetControlMessage(ipv6.FlagHopLimit, true)
	}
	c := ipv4.NewPacketConn(s.conn)
	s.receive = func(b []byte) (n, ttl int, err error) {
		n, cm, _, err := c.ReadFrom(b)
		if cm == nil {
			return n, -1, err
		}
		return n, cm.TTL, err
	}
	return c.SetControlMessage(ipv4.FlagTTL, true)
}
