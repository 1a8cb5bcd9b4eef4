// SPDX-License-Identifier: Apache-2.0

//go:build root

package lab_test

import (
	"context"
	endian "encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/test/lab"
)

func TestPing(t *testing.T) {
	tests := map[string]struct {
		change func(*lab.Options)
		ttl    int // 64, less one for each router
	}{
		"flat":         {func(*lab.Options) {}, 62},
		"routed":       {func(o *lab.Options) { o.Underlay = lab.Routed }, 61},
		"perlink":      {func(o *lab.Options) { o.Wiring = lab.PerLink }, 62},
		"ipv6":         {func(o *lab.Options) { o.IPv6 = true }, 62},
		"v6":           {func(o *lab.Options) { o.Inner, o.Outer = lab.V6, lab.V6 }, 62},
		"dual":         {func(o *lab.Options) { o.Inner, o.Outer = lab.Dual, lab.Dual }, 62},
		"routed dual":  {func(o *lab.Options) { o.Inner, o.Outer, o.Underlay = lab.Dual, lab.Dual, lab.Routed }, 61},
		"perlink dual": {func(o *lab.Options) { o.Inner, o.Outer, o.Wiring = lab.Dual, lab.Dual, lab.PerLink }, 62},
		"jumbo":        {func(o *lab.Options) { o.MTU = 9000 }, 62},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := up(t, test.change)
			route(t, l)
			for _, from := range l.Hosts[0].Containers {
				for _, to := range l.Hosts[1].Containers {
					for _, f := range l.Options.Inner.Each() {
						pingThrice(t, from, to, f, test.ttl)
					}
				}
			}
		})
	}
}

func pingThrice(t *testing.T, from, to *lab.Container, f lab.Families, ttl int) {
	t.Helper()
	r, err := from.NS.Ping(t.Context(), to.In(f), lab.PingOptions{Count: 3, Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	want := lab.PingResult{Sent: 3, Received: 3}
	if d := cmp.Diff([]int{ttl}, r.TTLs()); d != "" {
		t.Errorf("ping %s from %s: TTL: %s", to.In(f), from.In(f), d)
	}
	r.Replies = nil
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("ping %s from %s: %s", to.In(f), from.In(f), d)
	}
}

// TestTransferIPv6: streams and datagrams, whole and in fragments, over IPv6.
func TestTransferIPv6(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Inner, o.Outer = lab.V6, lab.V6 })
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	if err := lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr6, 1<<20); err != nil {
		t.Error(err)
	}
	c := capture(t, l.Hosts[1].NS, lab.Uplink)
	for name, o := range map[string]lab.UDPOptions{
		"fragmented":  {Count: 5, Size: 4000},
		"superpacket": {Count: 40, Size: 1000, Segments: 20, DF: true},
	} {
		if n, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr6, o); err != nil || n != o.Count {
			t.Errorf("%s: received %d of %d datagrams, error %v", name, n, o.Count, err)
		}
	}
	fragments := 0
	for _, p := range stop(t, c) {
		if err := lab.VerifyChecksums(p); err != nil {
			t.Error(err)
		}
		if d := lab.Decode(p); len(d.IP) > 0 && d.IP[0].IsFragment() {
			fragments++
		}
	}
	if fragments != 15 {
		t.Errorf("%d fragments on the wire, want 5 times 3", fragments)
	}
	if _, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr6, lab.UDPOptions{Count: 1, Size: 1453, DF: true, Timeout: time.Millisecond}); err == nil {
		t.Error("1453 bytes that may not be cut went through an MTU of 1500")
	}
}

// TestPingAccount takes a link down for part of a ping at 1000/s: what is lost
// has to show, with its numbers, and nothing else.
func TestPingAccount(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	p, err := from.NS.StartPing(t.Context(), to.Addr, lab.PingOptions{Interval: time.Millisecond, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, done func(lab.PingResult) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if e := lab.Until(ctx, what, func() (bool, error) { return done(p.Snapshot()), nil }); e != nil {
			t.Fatalf("%v: %+v", e, p.Snapshot())
		}
	}
	until("100 replies", func(r lab.PingResult) bool { return r.Received >= 100 })
	run(t, l.Wire(), "ip", "link", "set", "h2", "down")
	run(t, l.Wire(), "ip", "link", "set", "h2", "up")
	after := p.Snapshot()
	until("100 more replies", func(r lab.PingResult) bool { return r.Received >= after.Received+100 })
	r, err := p.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Lost) == 0 || r.Received+len(r.Lost) != r.Sent || r.Duplicates+r.Reordered+r.Damaged != 0 {
		t.Errorf("sent %d, received %d, lost %d, %d duplicates, %d reordered, %d damaged: want some lost, all accounted for",
			r.Sent, r.Received, len(r.Lost), r.Duplicates, r.Reordered, r.Damaged)
	}
}

// TestCaptureIsExact: a ping of n requests is n requests and n replies on each
// uplink, and nothing else but the ARP that started it.
func TestCaptureIsExact(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	captures := []*lab.Capture{capture(t, l.Hosts[0].NS, lab.Uplink), capture(t, l.Hosts[1].NS, lab.Uplink)}
	const count = 200
	if _, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: count, Interval: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for i, c := range captures {
		kinds := make(map[string]int)
		for _, p := range stop(t, c) {
			d := lab.Decode(p)
			if len(d.ARP) > 0 {
				continue
			}
			if err := lab.VerifyChecksums(p); err != nil {
				t.Errorf("uplink of h%d: %v", i+1, err)
			}
			if len(d.ICMP) == 0 {
				t.Errorf("uplink of h%d: unexpected %s %x", i+1, lab.Summary(p), p.Data)
				continue
			}
			kinds[fmt.Sprintf("%v %d bytes ttl %d outgoing %v", d.ICMP[0].TypeCode, p.Len, d.IPv4[0].TTL, p.Outgoing)]++
		}
		request, reply := i == 0, i == 1 // who sends which
		want := map[string]int{
			fmt.Sprintf("EchoRequest 98 bytes ttl 63 outgoing %v", request): count,
			fmt.Sprintf("EchoReply 98 bytes ttl 63 outgoing %v", reply):     count,
		}
		if d := cmp.Diff(want, kinds); d != "" {
			t.Errorf("uplink of h%d: %s", i+1, d)
		}
	}
}

func TestCaptureWaitFor(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	c := capture(t, l.Hosts[1].NS, lab.Uplink)
	if _, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 1}); err != nil {
		t.Fatal(err)
	}
	isReply := func(p lab.Packet) bool {
		d := lab.Decode(p)
		return len(d.ICMP) == 1 && d.ICMP[0].TypeCode.Type() == layers.ICMPv4TypeEchoReply
	}
	p, err := c.WaitFor(t.Context(), isReply)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("IP %s > %s: ICMP echo reply, id ", to.Addr, from.Addr)
	if got := lab.Summary(p); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, ", seq 1, length 64") {
		t.Errorf("summary %q, want %q…", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.WaitFor(ctx, func(lab.Packet) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for a packet that does not come: %v, want the deadline", err)
	}
	stop(t, c)
}

// TestCaptureTakeInOrder takes packets while they come: each is taken once, in the
// order that they passed the interface in, whoever of the two readers had it.
func TestCaptureTakeInOrder(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[0].Containers[1]
	c := capture(t, to.NS, "eth0")
	const count = 5000
	sent := make(chan error, 1)
	go func() {
		_, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, lab.UDPOptions{Count: count, Size: 64})
		sent <- err
	}()
	next, ended := 0, false
	for !ended {
		select {
		case err := <-sent:
			if err != nil {
				t.Error(err)
			}
			ended = true // all have passed
		default:
		}
		packets, err := c.Take()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			d := lab.Decode(p)
			if p.Outgoing || len(d.UDP) == 0 {
				continue
			}
			if n := int(endian.BigEndian.Uint64(d.UDP[0].Payload)); n != next {
				t.Fatalf("packet %d taken, want %d", n, next)
			}
			next++
		}
	}
	if next != count {
		t.Errorf("%d packets taken, want %d", next, count)
	}
	stop(t, c)
}

func TestTransferTCPStaysWhole(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	c := capture(t, l.Hosts[0].NS, lab.Uplink)
	const size = 8 << 20
	if err := lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, size); err != nil {
		t.Fatal(err)
	}
	packets, payload, largest := 0, 0, 0
	for _, p := range stop(t, c) {
		d := lab.Decode(p)
		if !p.Outgoing || len(d.TCP) == 0 {
			continue
		}
		n := int(d.IPv4[0].Length) - 20 - 4*int(d.TCP[0].DataOffset)
		if n > 0 {
			packets++
			payload += n
			largest = max(largest, n)
		}
		if n > 1448 && p.GSOSize != 1448 {
			t.Errorf("superpacket of %d bytes has segments of %d, want 1448", n, p.GSOSize)
		}
		if p.Len != int(d.IPv4[0].Length)+14 {
			t.Errorf("length %d, IP says %d", p.Len, d.IPv4[0].Length)
		}
	}
	if payload < size || largest < 30000 {
		t.Errorf("%d bytes in %d packets, the largest %d: want all, in superpackets", payload, packets, largest)
	}
}

func TestTransferUDP(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	tests := map[string]struct {
		o       lab.UDPOptions
		largest int // captured packet, bytes
		gso     int
	}{
		"small":       {lab.UDPOptions{Count: 50, Size: 64}, 64 + 42, 0},
		"fragmented":  {lab.UDPOptions{Count: 5, Size: 4000}, 1514, 0},
		"superpacket": {lab.UDPOptions{Count: 40, Size: 1000, Segments: 20}, 20000 + 42, 1000},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := capture(t, l.Hosts[1].NS, lab.Uplink)
			n, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, test.o)
			if err != nil || n != test.o.Count {
				t.Errorf("received %d of %d datagrams, error %v", n, test.o.Count, err)
			}
			largest, gso := 0, 0
			for _, p := range stop(t, c) {
				largest, gso = max(largest, p.Len), max(gso, p.GSOSize)
			}
			if largest != test.largest || gso != test.gso {
				t.Errorf("largest packet %d bytes, segments of %d, want %d and %d", largest, gso, test.largest, test.gso)
			}
		})
	}
	t.Run("over the MTU", func(t *testing.T) {
		_, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, lab.UDPOptions{Count: 1, Size: 1473, DF: true, Timeout: time.Millisecond})
		if err == nil {
			t.Error("1473 bytes with DF went through an MTU of 1500")
		}
	})
}

// TestTransferFails: a transfer that cannot succeed ends, and says so.
func TestTransferFails(t *testing.T) {
	l := up(t, func(*lab.Options) {}) // no routes
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := lab.TransferTCP(ctx, from.NS, to.NS, to.Addr, 1<<20); err == nil {
		t.Error("TCP transfer without a route succeeded")
	}
	n, _ := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, lab.UDPOptions{Count: 3, Size: 8, Timeout: 50 * time.Millisecond})
	if n != 0 {
		t.Errorf("%d datagrams arrived without a route", n)
	}
}
