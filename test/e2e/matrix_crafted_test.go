// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/lab"
)

// crafted are the sockets of datagrams whose packets the sender makes itself.
type crafted struct {
	in       net.PacketConn
	datagram func(payload []byte) []byte // from the sender's port to the receiver's, with its checksum
	send     func(packet []byte) error
}

// craft runs f with such sockets.
func (r *row) craft(f func(crafted) error) error {
	in, out, err := r.sockets()
	if err != nil {
		return err
	}
	defer in.Close()
	defer out.Close()
	send, stop, err := r.raw()
	if err != nil {
		return err
	}
	defer stop()
	from, to := localPort(out), localPort(in)
	return f(crafted{in, func(payload []byte) []byte { return r.udp(from, to, payload) }, send})
}

// rawDatagram sends one datagram in the packet that its kind wants.
func rawDatagram(ctx context.Context, r *row) error {
	return r.craft(func(c crafted) error {
		payload := randomBytes(99)
		if err := c.send(r.ip(unix.IPPROTO_UDP, c.datagram(payload), 0, 0, false)); err != nil {
			return err
		}
		return expect(ctx, c.in, payload)
	})
}

// shuffledFragments sends the fragments of datagrams in orders that no kernel
// sends them in, and as short as fragments can be.
func shuffledFragments(ctx context.Context, r *row) error {
	random := rand.New(rand.NewPCG(1, 2))
	return r.craft(func(c crafted) error {
		for id, s := range []struct{ size, fragment int }{{4000, 1024}, {100, 8}, {3000, 1376}} {
			payload := randomBytes(s.size)
			fragments := r.fragments(uint32(id+1), c.datagram(payload), s.fragment)
			slices.Reverse(fragments)
			if id > 0 {
				random.Shuffle(len(fragments), func(i, j int) { fragments[i], fragments[j] = fragments[j], fragments[i] })
			}
			for _, f := range fragments {
				if err := c.send(f); err != nil {
					return err
				}
			}
			if err := expect(ctx, c.in, payload); err != nil {
				return fmt.Errorf("fragments of %d bytes: %w", s.fragment, err)
			}
		}
		return nil
	})
}

// corrupted sends datagrams with wrong checksums, which nobody but the receiver
// itself looks at: it drops them, however many checksums on the way were right.
func corrupted(ctx context.Context, r *row) error {
	return r.craft(func(c crafted) error {
		for _, size := range []int{1, 100, 1000} {
			payload := randomBytes(size)
			damaged, intact := c.datagram(payload), c.datagram(payload)
			damaged[len(damaged)-1] ^= 0x10
			for _, datagram := range [][]byte{damaged, damaged, intact} {
				if err := c.send(r.ip(unix.IPPROTO_UDP, datagram, 0, 0, false)); err != nil {
					return err
				}
			}
			if err := expect(ctx, c.in, payload); err != nil {
				return err
			}
		}
		return nil
	})
}

// sctp sends DATA chunks (RFC 9260, 3.3.1) to a receiver that knows no SCTP: what
// matters is that they arrive as they are, with the checksum that they have.
func sctp(ctx context.Context, r *row) error {
	network, local := "ip4:132", "0.0.0.0"
	if r.family == lab.V6 {
		network, local = "ip6:132", "::"
	}
	var in net.PacketConn
	err := r.to.ns.Do(func() (err error) {
		in, err = new(net.ListenConfig).ListenPacket(ctx, network, local)
		return err
	})
	if err != nil {
		return err
	}
	defer in.Close()
	send, stop, err := r.raw()
	if err != nil {
		return err
	}
	defer stop()
	for tsn, size := range []int{1, 100, 1001, (r.Options.ContainerMTU()-r.ipHeader())&^3 - 28} {
		packet := sctpData(uint32(tsn), randomBytes(size))
		if err := send(r.ip(unix.IPPROTO_SCTP, packet, 0, 0, false)); err != nil {
			return err
		}
		if err := expect(ctx, in, packet); err != nil {
			return err
		}
	}
	return nil
}

// sctpData is an SCTP packet with one DATA chunk, padded to 4 bytes.
func sctpData(tsn uint32, payload []byte) []byte {
	b := []byte{0x9c, 0x40, 0x9c, 0x41, 0, 0, 0, 7, 0, 0, 0, 0, 0, 3}
	b = binary.BigEndian.AppendUint16(b, uint16(16+len(payload)))
	b = binary.BigEndian.AppendUint32(b, tsn)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, payload...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32c(b))
	return b
}
