// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// transmit copies from the device to the socket.
func (t *Tunnel) transmit(ctx context.Context) error {
	b := newBatch()
	queued := 0
	send := func(fd uintptr) { t.send(fd, b, queued) }
	err := pump(ctx, newSource(t.tun, b.read), func(n int) error {
		queued = t.address(b, n)
		return t.socket.Control(send)
	})
	if err != nil {
		return fmt.Errorf("copy from %s: %w", DeviceName, err)
	}
	return nil
}

// receive copies from the socket to the device.
func (t *Tunnel) receive(ctx context.Context) error {
	b := newBatch()
	received := 0
	deliver := func(fd uintptr) { t.deliver(fd, b, received) }
	err := pump(ctx, newSource(t.socket, b.receive), func(n int) error {
		received = n
		return t.tun.Control(deliver)
	})
	if err != nil {
		return fmt.Errorf("copy to %s: %w", DeviceName, err)
	}
	return nil
}

// pump hands batches on until ctx ends and then until nothing is left, or
// drainMost packets where more keeps coming.
func pump(ctx context.Context, from *source, handle func(n int) error) error {
	for ctx.Err() == nil {
		n, err := from.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
		if err := handle(n); err != nil {
			return err
		}
	}
	for most := drainMost; most > 0; {
		n, err := from.left()
		if n == 0 || err != nil {
			return err
		}
		if err := handle(n); err != nil {
			return err
		}
		most -= n
	}
	return nil
}

// address judges n packets of the device, moves those that go on to the front
// as messages to be sent, and returns how many they are.
func (t *Tunnel) address(b *batch, n int) (queued int) {
	table := t.table.Load()
	for i := range n {
		p := b.packet(i)
		node, reason := table.outbound(p)
		if reason != none {
			t.dropPacket(reason, p, t.options.Node)
			continue
		}
		b.address(queued, i, netip.AddrPortFrom(node, t.options.Port), packet(p).outerTOS())
		queued++
	}
	return queued
}

// send sends the first n messages. A node that cannot be reached holds up no
// other: its packets are dropped.
func (t *Tunnel) send(fd uintptr, b *batch, n int) {
	for i := 0; i < n; {
		sent, err := b.send(fd, i, n)
		for range sent {
			t.counters.sent.add(1, b.lengths[i])
			i++
		}
		if err != nil {
			t.dropSend(b.packet(i), b.from(i), err)
			i++
		}
	}
}

// deliver judges n datagrams and writes those that go on to the device.
func (t *Tunnel) deliver(fd uintptr, b *batch, n int) {
	table := t.table.Load()
	for i := range n {
		p := b.packet(i)
		if reason := table.inbound(p, b.from(i), b.tos(i)); reason != none {
			t.dropPacket(reason, p, b.from(i))
			continue
		}
		if _, err := retry(func() (int, error) { return unix.Write(int(fd), p) }); err != nil {
			t.counters.drop(Deliver, func() []any { return []any{"from", b.from(i), "error", err} })
			continue
		}
		t.counters.delivered.add(1, len(p))
	}
}

// answers are the ICMP types of what is not dropped silently.
var answers = map[Reason]byte{NoRoute: icmpUnreachable, TTL: icmpTimeExceeded}

func (t *Tunnel) dropPacket(r Reason, p []byte, from netip.Addr) {
	t.counters.drop(r, func() []any { return []any{"node", from, "packet", describe(p)} })
	if icmpType, ok := answers[r]; ok {
		t.icmp.answer(packet(p), icmpType)
	}
}

func (t *Tunnel) dropSend(p []byte, to netip.Addr, err error) {
	t.counters.drop(Send, func() []any { return []any{"to", to, "packet", describe(p), "error", err} })
}

// describe names a packet's addresses where it has any.
func describe(b []byte) string {
	if !isIPv4(b) || len(b) < headerLen {
		return fmt.Sprintf("%d bytes, no IPv4", len(b))
	}
	p := packet(b)
	return fmt.Sprintf("%s > %s, %d bytes", p.source(), p.destination(), len(p))
}
