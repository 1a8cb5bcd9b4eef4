// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/test/lab"
)

// traffic is what goes on between two containers while a test changes what is
// under it, in both directions: pings at 1 kHz, a TCP stream, and a TCP
// connection that is silent until the end.
type traffic struct {
	pings   [2]*lab.Pinger
	names   [2]string
	streams [2]*stream
	idle    [2]*idle
	steps   []step
	end     func()
}

// step is something that a test did, and the pings it took.
type step struct {
	name string
	took time.Duration
	from [2]int // sequence number of the first ping
	to   [2]int // of the first that is no longer in it
}

// outage is what a step cost in one direction.
type outage struct {
	lost, sent int
	gap        time.Duration // the longest without an answer
}

func startTraffic(t *testing.T, family lab.Families, a, b *node) *traffic {
	t.Helper()
	x := &traffic{}
	x.end = sync.OnceFunc(func() { x.stop(t) })
	t.Cleanup(x.end)
	for i, pair := range [][2]*node{{a, b}, {b, a}} {
		from, to := pair[0].container(), pair[1].container()
		address := to.In(family)
		meet(t, from.NS, address)
		x.names[i] = pair[0].Name + ">" + pair[1].Name
		var err error
		x.pings[i], err = from.NS.StartPing(t.Context(), address, lab.PingOptions{Interval: time.Millisecond})
		noError(t, err)
		x.streams[i] = startStream(t, from, to, address)
		x.idle[i] = startIdle(t, from, to, address)
	}
	return x
}

// during does something under traffic, and goes on until pings are answered and
// TCP flows again. What it cost is known at the end.
func (x *traffic) during(t *testing.T, name string, f func()) {
	t.Helper()
	s := step{name: name}
	for i, p := range x.pings {
		s.from[i] = lastAnswered(p) + 1
	}
	start := time.Now()
	f()
	s.took = time.Since(start)
	for i, p := range x.pings {
		x.answered(t, i, p.Snapshot().Sent+20)
	}
	for i, stream := range x.streams {
		arrived := stream.arrived.Load()
		until(t, name+": TCP flows "+x.names[i], func() (bool, error) { return stream.arrived.Load() > arrived+streamChunk, nil })
	}
	for i, p := range x.pings {
		s.to[i] = p.Snapshot().Sent
	}
	x.steps = append(x.steps, s)
}

// answered waits for the answer to a ping not sent before that one.
func (x *traffic) answered(t *testing.T, i, seq int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond) // a snapshot copies all replies
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; <-tick.C {
		if lastAnswered(x.pings[i]) >= seq {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: no ping is answered for %v", x.names[i], timeout)
		}
	}
}

// lastAnswered is the sequence number of the ping answered last, -1 before the first.
func lastAnswered(p *lab.Pinger) int {
	replies := p.Snapshot().Replies
	if len(replies) == 0 {
		return -1
	}
	return replies[len(replies)-1].Seq
}

// outages ends the traffic. All connections have to have survived. It returns
// what each step cost in each direction, and what was lost besides.
func (x *traffic) outages(t *testing.T) map[string][2]outage {
	t.Helper()
	x.end()
	all := make(map[string][2]outage)
	for i, p := range x.pings {
		r, err := p.Stop()
		noError(t, err)
		if r.Damaged > 0 || r.Duplicates > 0 {
			t.Errorf("%s: %d replies damaged, %d twice", x.names[i], r.Damaged, r.Duplicates)
		}
		besides := outage{sent: r.Sent, lost: len(r.Lost)}
		for _, s := range x.steps {
			o := s.outage(i, r.Lost)
			besides.lost -= o.lost
			both := all[s.name]
			both[i] = o
			all[s.name] = both
			t.Logf("%-40s %s: %d of %d pings lost, longest gap %v, step took %v", s.name, x.names[i], o.lost, o.sent,
				o.gap.Round(time.Millisecond), s.took.Round(time.Millisecond))
		}
		both := all[betweenSteps]
		both[i] = besides
		all[betweenSteps] = both
	}
	return all
}

// betweenSteps is the name of what was lost while a test did nothing.
const betweenSteps = "between the steps"

// outage counts a step's losses. Pings are a millisecond apart, or more where
// the machine is busy, so that a gap is at least as long as it says.
func (s step) outage(direction int, lost []uint64) outage {
	o := outage{sent: s.to[direction] - s.from[direction]}
	streak, last := 0, -2
	for _, n := range lost {
		seq := int(n)
		if seq < s.from[direction] || seq >= s.to[direction] {
			continue
		}
		o.lost++
		if seq == last+1 {
			streak++
		} else {
			streak = 1
		}
		last = seq
		o.gap = max(o.gap, time.Duration(streak)*time.Millisecond)
	}
	return o
}

// stop ends what still runs, once.
func (x *traffic) stop(t *testing.T) {
	for i := range x.pings {
		if x.streams[i] != nil {
			if err := x.streams[i].end(); err != nil {
				t.Errorf("TCP stream %s: %v", x.names[i], err)
			}
		}
		if x.idle[i] != nil {
			if err := x.idle[i].end(); err != nil {
				t.Errorf("idle TCP connection %s: %v", x.names[i], err)
			}
		}
	}
}

// connect makes a TCP connection to an address of another container and returns its ends.
func connect(t *testing.T, from, to *lab.Container, address netip.Addr) (client, server net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	l, err := to.NS.Listen(ctx, "tcp", netip.AddrPortFrom(address, 0).String())
	noError(t, err)
	defer l.Close()
	client, err = from.NS.Dial(ctx, "tcp", l.Addr().String())
	noError(t, err)
	server, err = l.Accept()
	noError(t, err)
	return client, server
}

const streamChunk = 8 << 10 // bytes

// stream is a TCP connection that carries a chunk every 5 ms one way.
type stream struct {
	client, server net.Conn
	arrived        atomic.Int64 // bytes
	cancel         context.CancelFunc
	sent           chan account
	received       chan account
}

// account is what went over one end of a stream.
type account struct {
	bytes int64
	sum   string
	err   error
}

func startStream(t *testing.T, from, to *lab.Container, address netip.Addr) *stream {
	t.Helper()
	s := &stream{sent: make(chan account, 1), received: make(chan account, 1)}
	s.client, s.server = connect(t, from, to, address)
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { s.sent <- s.send(ctx) }()
	go func() {
		h := sha256.New()
		_, err := io.Copy(io.MultiWriter(h, countWriter{&s.arrived}), s.server)
		s.received <- accountOf(s.arrived.Load(), h, err)
	}()
	return s
}

// countWriter counts the bytes written to it.
type countWriter struct{ n *atomic.Int64 }

func (w countWriter) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	return len(b), nil
}

func (s *stream) send(ctx context.Context) account {
	h := sha256.New()
	source := io.TeeReader(rand.NewChaCha8([32]byte{}), h)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var sent int64
	for {
		n, err := io.CopyN(s.client, source, streamChunk)
		sent += n
		if err != nil {
			return accountOf(sent, h, err)
		}
		select {
		case <-ctx.Done():
			return accountOf(sent, h, s.client.(*net.TCPConn).CloseWrite())
		case <-tick.C:
		}
	}
}

func accountOf(n int64, h hash.Hash, err error) account {
	return account{n, fmt.Sprintf("%x", h.Sum(nil)), err}
}

// end finishes the stream: all that was sent has to have arrived.
func (s *stream) end() error {
	s.cancel()
	deadline := time.Now().Add(timeout)
	err := errors.Join(s.client.SetDeadline(deadline), s.server.SetDeadline(deadline))
	sent, received := <-s.sent, <-s.received
	if err = errors.Join(err, sent.err, received.err, s.client.Close(), s.server.Close()); err != nil {
		return err
	}
	if sent != received {
		return fmt.Errorf("sent %d bytes, received %d, or others", sent.bytes, received.bytes)
	}
	return nil
}

// idle is a TCP connection on which nothing is said until its end.
type idle struct{ ends [2]net.Conn }

func startIdle(t *testing.T, from, to *lab.Container, address netip.Addr) *idle {
	t.Helper()
	client, server := connect(t, from, to, address)
	return &idle{[2]net.Conn{client, server}}
}

// end says a word in each direction.
func (c *idle) end() (err error) {
	word := []byte("still here")
	for i, from := range c.ends {
		to := c.ends[1-i]
		got := make([]byte, len(word))
		err = errors.Join(err, to.SetReadDeadline(time.Now().Add(timeout)))
		_, writeErr := from.Write(word)
		_, readErr := io.ReadFull(to, got)
		if err = errors.Join(err, writeErr, readErr); err == nil && !slices.Equal(word, got) {
			err = fmt.Errorf("%q arrived as %q", word, got)
		}
	}
	return errors.Join(err, c.ends[0].Close(), c.ends[1].Close())
}
