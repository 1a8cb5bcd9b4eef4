// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	timeout = 10 * time.Second
	enough  = 100 // operations that show that a load runs
)

var loopback = netip.MustParseAddr("127.0.0.1")

// TestLoads runs every kind of load, with one flow and with several, until it
// has done something, twice over by the same two agents.
func TestLoads(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	listener, dialler := startAgent(t, "listener"), startAgent(t, "dialler")
	for _, s := range []Spec{
		{TCPStream, 1, 128 << 10}, {TCPStream, 8, 128 << 10},
		{TCPRR, 1, 1}, {TCPRR, 4, 3000},
		{TCPCRR, 1, 1},
		{UDPRR, 1, 1}, {UDPRR, 32, 1},
		{UDPFlood, 1, 64}, {UDPFlood, 2, 1400},
	} {
		for _, addr := range []netip.Addr{loopback, netip.IPv6Loopback()} {
			ports, err := listener.Listen(ctx, s, 1, addr)
			if err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
			if err = dialler.Dial(ctx, s, 0, addr, ports); err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
			here, there := waitFor(ctx, t, dialler, enough), waitFor(ctx, t, listener, enough)
			if err := errors.Join(dialler.Stop(ctx), listener.Stop(ctx)); err != nil {
				t.Errorf("%+v: %v", s, err)
			}
			checkCounts(t, s, here, there)
		}
	}
}

// waitFor waits until an agent has counted that many operations.
func waitFor(ctx context.Context, t *testing.T, a *Agent, ops uint64) Count {
	t.Helper()
	for ; ; time.Sleep(time.Millisecond) {
		c, err := a.Count(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if c.Ops >= ops {
			return c
		}
	}
}

func checkCounts(t *testing.T, s Spec, dialler, listener Count) {
	t.Helper()
	for end, c := range map[string]Count{"dialler": dialler, "listener": listener} {
		size := uint64(s.Size)
		if s.Kind != TCPStream && (c.Bytes < c.Ops*size || c.Bytes%size != 0) { // more may have come between reading the two
			t.Errorf("%+v: %s counts %d bytes in %d operations", s, end, c.Bytes, c.Ops)
		}
		if c.Nudge != 0 {
			t.Errorf("%+v: %s sent %d requests again on a path that loses none", s, end, c.Nudge)
		}
		if c.At <= 0 || c.Busy <= 0 || c.Boot == "" {
			t.Errorf("%+v: %s reads no clock or no CPU time: %+v", s, end, c)
		}
	}
}

func TestRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	good := Spec{UDPRR, 1, 1}
	listener, dialler := startAgent(t, "listener"), startAgent(t, "dialler")
	tests := map[string]struct {
		do   func() error
		want string
	}{
		"to dial, by a listener": {func() error { return listener.Dial(ctx, good, 0, loopback, []uint16{9}) }, "listens only"},
		"a kind there is not": {func() error {
			_, err := listener.Listen(ctx, Spec{"sctp", 1, 1}, 0, loopback)
			return err
		}, `load "sctp": use one of tcp-crr, tcp-rr, tcp-stream, udp-flood, udp-rr`},
		"too many flows": {func() error {
			_, err := listener.Listen(ctx, Spec{UDPRR, 1 << 20, 1}, 0, loopback)
			return err
		}, "load of 1048576 flows"},
		"a datagram too large": {func() error {
			_, err := listener.Listen(ctx, Spec{UDPRR, 1, 65508}, 0, loopback)
			return err
		}, "load of 65508 bytes"},
		"no address": {func() error {
			_, err := listener.Listen(ctx, good, 0, netip.Addr{})
			return err
		}, "without an address"},
		"an address of another host": {func() error {
			_, err := listener.Listen(ctx, good, 0, netip.MustParseAddr("192.0.2.1"))
			return err
		}, "is it an address of this host?"},
		"a port too many":       {func() error { return dialler.Dial(ctx, good, 0, loopback, []uint16{9, 9}) }, "2 ports"},
		"nobody listens":        {func() error { return dialler.Dial(ctx, Spec{TCPRR, 1, 1}, 0, loopback, []uint16{1}) }, "connection refused"},
		"to stop what runs not": {func() error { return dialler.Stop(ctx) }, ""},
	}
	for name, test := range tests {
		err := test.do()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: error %v, want one that says %q", name, err, test.want)
		}
	}
}

// TestFailureIsTold: what ends a flow before it is stopped is what Stop says.
func TestFailureIsTold(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	listener, dialler := startAgent(t, "listener"), startAgent(t, "dialler")
	s := Spec{TCPRR, 1, 1}
	ports, err := listener.Listen(ctx, s, 0, loopback)
	if err != nil {
		t.Fatal(err)
	}
	if err := dialler.Dial(ctx, s, 0, loopback, ports); err != nil {
		t.Fatal(err)
	}
	waitFor(ctx, t, dialler, enough)
	if err := listener.Stop(ctx); err != nil {
		t.Errorf("the half that was stopped: %v", err)
	}
	last, still := uint64(0), 0 // until its thread has ended
	for ; still < 20; time.Sleep(time.Millisecond) {
		if now := waitFor(ctx, t, dialler, enough).Ops; now != last {
			last, still = now, 0
		}
		still++
	}
	if err := dialler.Stop(ctx); err == nil || !strings.Contains(err.Error(), "answer") && !strings.Contains(err.Error(), "request") {
		t.Errorf("error %v of a half whose other end went, want one that tells of it", err)
	}
}

// TestContextEndsAgent: a call that is waited for too long ends, and the agent with it.
func TestContextEndsAgent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := startAgent(t, "dialler")
	cancel()
	if _, err := a.Count(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func TestParseStat(t *testing.T) {
	const good = "cpu  10 20 30 400 50 60 70 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 1 2 3 4 5 6 7 8 0 0\nintr 5\n"
	got, err := parseStat([]byte(good))
	if want := (cpuTimes{cpus: 2, idle: 4500 * time.Millisecond, steal: 800 * time.Millisecond}); err != nil || got != want {
		t.Errorf("parseStat gives %+v and error %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "cpu  1 2 3\ncpu0 1\n", "cpu  1 2 3 x 5 6 7 8\ncpu0 1\n", "cpu 1 2 3 4 5 6 7 8 9 10\n"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) gives %+v, want an error", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("cpu  10 20 30 400 50 60 70 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		if c, err := parseStat(stat); err == nil && c.cpus < 1 {
			t.Errorf("%+v without an error", c)
		}
	})
}
