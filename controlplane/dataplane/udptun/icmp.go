// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// ICMP types (RFC 792, RFC 950, RFC 1256); code 0 of the two that are sent here is
// "net unreachable", as flanneld answers, and "TTL exceeded in transit".
const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpTimestamp    = 13
	icmpMaskReply    = 18
)

const (
	icmpHeaderLen = 8
	icmpMaxLen    = 576  // of the whole packet (RFC 1812, 4.3.2.3)
	icmpTTL       = 64   // net.ipv4.ip_default_ttl
	icmpTOS       = 0xc0 // internetwork control (RFC 1812, 4.3.2.5)
)

// The kernel's own defaults, net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst.
const (
	icmpPerSecond = 1000
	icmpBurst     = 50
)

// icmpSender sends ICMP errors. A raw socket of protocol IPPROTO_RAW receives
// nothing (raw(7)).
type icmpSender struct {
	fd    int
	limit *rate.Limiter
}

func openICMP() (*icmpSender, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("open raw socket for ICMP errors (CAP_NET_RAW is needed): %w", err)
	}
	return &icmpSender{fd: fd, limit: rate.NewLimiter(icmpPerSecond, icmpBurst)}, nil
}

func (s *icmpSender) Close() error { return unix.Close(s.fd) }

// answer tells the sender of p why it goes no further, unless nobody may be
// told. That the answer cannot be sent is nobody's loss: ICMP errors are sent
// with best effort, and p itself is counted.
func (s *icmpSender) answer(p packet, icmpType byte) {
	if !answerable(p) || !s.limit.Allow() {
		return
	}
	_ = unix.Sendto(s.fd, icmpError(p, icmpType), unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: p.source().As4()})
}

// answerable reports whether an ICMP error may be sent about p: not about
// another one, nor a fragment but the first, nor to or about what is not one
// host (RFC 1812, 4.3.2.7).
func answerable(p packet) bool {
	return p.firstFragment() && !isICMPError(p) && isHost(p.source()) && isHost(p.destination())
}

func isHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.As4()[0] < 240
}

// isICMPError takes for one what is not known to be a query or its answer, and
// what is too short to say.
func isICMPError(p packet) bool {
	if p[offProtocol] != unix.IPPROTO_ICMP {
		return false
	}
	if len(p.payload()) == 0 {
		return true
	}
	t := p.payload()[0]
	return t != icmpEchoReply && t != icmpEcho && (t < icmpTimestamp || t > icmpMaskReply)
}

// icmpError is the IPv4 packet to send; the kernel fills in its source, total
// length, identification and checksum (raw(7)).
func icmpError(p packet, icmpType byte) []byte {
	quote := p[:min(len(p), icmpMaxLen-headerLen-icmpHeaderLen)]
	b := make([]byte, headerLen+icmpHeaderLen, icmpMaxLen)
	b[0], b[offTOS], b[offTTL], b[offProtocol] = 4<<4|headerLen/4, icmpTOS, icmpTTL, unix.IPPROTO_ICMP
	copy(b[offDest:], p[offSource:offDest])
	b[headerLen] = icmpType
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[headerLen+2:], checksum(b[headerLen:]))
	return b
}
