// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"log/slog"
	"net/netip"
	"os"
	"testing"
)

// quietTunnel has no device and no socket: enough to judge packets.
func quietTunnel() *Tunnel {
	t := &Tunnel{options: Options{Subnet: local, Port: 8285}, counters: counters{log: slog.New(slog.DiscardHandler)}}
	t.table.Store(testTable())
	return t
}

func fill(b *batch, packet []byte) {
	for i := range batchSize {
		b.lengths[i] = copy(b.buffers[i], packet)
	}
}

// Of the packets of a batch those that go on move up, in their order, and each
// keeps its own node and TOS octet.
func TestAddress(t *testing.T) {
	b, tunnel := newBatch(), quietTunnel()
	batch := [][]byte{
		with(ipv4("172.246.0.2", "172.245.0.1", 17, nil), offTOS, ecnCE),
		{0x60},
		ipv4("172.246.0.2", "172.247.3.2", 17, make([]byte, 100)),
		ipv4("172.246.0.2", "172.245.0.3", 17, make([]byte, 50))[:30],
		with(ipv4("172.246.0.2", "172.247.4.4", 17, nil), offTOS, ecnECT1),
	}
	for i, p := range batch {
		b.lengths[i] = copy(b.buffers[i], p)
	}
	want := []struct {
		dst  string
		node netip.Addr
		tos  byte
	}{{"172.245.0.1", nodeA, ecnECT0}, {"172.247.3.2", nodeC, 0}, {"172.247.4.4", nodeA, ecnECT1}}
	if n := tunnel.address(b, len(batch)); n != len(want) {
		t.Fatalf("%d of the packets go on, want %d", n, len(want))
	}
	for i, w := range want {
		p := packet(b.packet(i))
		if p.destination().String() != w.dst || b.from(i) != w.node || b.tos(i) != w.tos {
			t.Errorf("message %d: %s by %s, TOS %d, want %+v", i, p.destination(), b.from(i), b.tos(i), w)
		}
		if b.iovecs[i].Base != &b.buffers[i][0] || int(b.iovecs[i].Len) != b.lengths[i] {
			t.Errorf("message %d points to another packet", i)
		}
	}
	for r, n := range tunnel.Stats().Drops {
		if want := map[Reason]uint64{Protocol: 1, Malformed: 1}[r]; n != want {
			t.Errorf("%d dropped as %s, want %d", n, r, want)
		}
	}
}

// What comes and goes, and what is dropped once its kind is logged, costs no
// allocation.
func TestCopyAllocatesNothing(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := null.Fd()
	b, tunnel := newBatch(), quietTunnel()
	out := ipv4("172.246.0.2", "172.245.0.1", 17, make([]byte, 1000))
	in := ipv4("172.245.0.2", "172.246.0.1", 17, make([]byte, 1000))
	bad := ipv4("172.245.0.2", "172.246.0.1", 17, nil)[:19]
	allocs := testing.AllocsPerRun(10, func() {
		fill(b, out)
		tunnel.address(b, batchSize)
		for i := range b.addrs {
			b.addrs[i].Addr = nodeA.As4()
		}
		fill(b, in)
		tunnel.deliver(fd, b, batchSize)
		fill(b, bad)
		tunnel.deliver(fd, b, batchSize)
	})
	if allocs != 0 {
		t.Errorf("%v allocations for three batches", allocs)
	}
	s := tunnel.Stats()
	if want := uint64(11 * batchSize); s.Delivered.Packets != want || s.Dropped() != want {
		t.Errorf("delivered %d, dropped %d, want %d each", s.Delivered.Packets, s.Dropped(), want)
	}
}
