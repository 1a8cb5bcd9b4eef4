// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/binary"
	"hash/crc32"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/lab"
)

type syscallConn = syscall.RawConn

func crc32c(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// raw sends IP packets from the row's sender with the header that they have, by the kernel's routes.
func (r *row) raw() (send func(packet []byte) error, stop func(), err error) {
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if r.family == lab.V6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: r.to.addr.As16()}
	} else {
		to = &unix.SockaddrInet4{Addr: r.to.addr.As4()}
	}
	var fd int
	err = r.from.ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // raw(7): the header is the sender's
		return err
	})
	return func(packet []byte) error { return unix.Sendto(fd, packet, 0, to) }, func() { _ = unix.Close(fd) }, err
}

// ip is an IP packet of the row's sender: a whole one, or a fragment of id at a
// place of the payload.
func (r *row) ip(protocol byte, payload []byte, id uint32, at int, more bool) []byte {
	if r.family == lab.V6 {
		return r.ipv6(protocol, payload, id, at, more)
	}
	b := []byte{0x45, r.kind.tos, 0, 0, 0, 0, 0, 0, r.kind.sentTTL(), protocol, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[4:], uint16(id))
	flags := uint16(at / 8)
	if more {
		flags |= 0x2000
	}
	if r.kind.df {
		flags |= 0x4000
	}
	binary.BigEndian.PutUint16(b[6:], flags)
	b = append(append(b, r.from.addr.AsSlice()...), r.to.addr.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], internetChecksum(b))
	return append(b, payload...)
}

func (r *row) ipv6(protocol byte, payload []byte, id uint32, at int, more bool) []byte {
	next, extension := protocol, []byte(nil)
	if id != 0 {
		offset := uint16(at)
		if more {
			offset |= 1
		}
		next, extension = unix.IPPROTO_FRAGMENT, binary.BigEndian.AppendUint16([]byte{protocol, 0}, offset)
		extension = binary.BigEndian.AppendUint32(extension, id)
	}
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(r.kind.tos)<<20)
	b = binary.BigEndian.AppendUint16(b, uint16(len(extension)+len(payload)))
	b = append(b, next, r.kind.sentTTL())
	b = append(append(b, r.from.addr.AsSlice()...), r.to.addr.AsSlice()...)
	return append(append(b, extension...), payload...)
}

// udp is a datagram with its checksum.
func (r *row) udp(from, to uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	pseudo := append(r.from.addr.AsSlice(), r.to.addr.AsSlice()...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(b))), 0, 0, 0, unix.IPPROTO_UDP)
	sum := internetChecksum(append(pseudo, b...))
	if sum == 0 {
		sum = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// fragments cuts a datagram into IP packets of that many bytes each.
func (r *row) fragments(id uint32, datagram []byte, size int) (all [][]byte) {
	for at := 0; at < len(datagram); at += size {
		end := min(at+size, len(datagram))
		all = append(all, r.ip(unix.IPPROTO_UDP, datagram[at:end], id, at, end < len(datagram)))
	}
	return all
}

// internetChecksum is that of RFC 1071.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i&1))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
