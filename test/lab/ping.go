// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/icmp"
)

// PingOptions say what a pinger sends.
type PingOptions struct {
	Count    int           // 0: until Stop
	Interval time.Duration // between requests, from 1 ms up; 0: 10 ms
	Timeout  time.Duration // for the last replies; 0: 1 s
	Size     int           // bytes of ICMP payload; at least 16, its default is ping's 56
	DF       bool          // do not fragment
}

// PingResult is what became of the requests.
type PingResult struct {
	Sent       int
	Received   int      // distinct replies
	Duplicates int      // replies to what had been replied to
	Reordered  int      // replies that came after the reply to a later request
	Lost       []uint64 // sequence numbers without a reply, from 0 on
	Damaged    int      // replies whose payload is not what was sent
	Errors     []string // ICMP errors about our requests, and those of the local stack
	Replies    []Reply  // distinct ones, as they came
}

// Reply is one reply.
type Reply struct {
	Seq int // from 0 on; ICMP's own is one more, and wraps
	TTL int // as received
	RTT time.Duration
}

// TTLs are the TTLs that replies came with, each value once.
func (r PingResult) TTLs() []int {
	var all []int
	for _, reply := range r.Replies {
		all = append(all, reply.TTL)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Pinger sends ICMP echo requests and keeps account of the replies.
type Pinger struct {
	o      PingOptions
	socket *icmpSocket
	dst    net.Addr
	id     int
	cancel context.CancelFunc
	sender chan struct{} // closed when the last request is out

	mu       sync.Mutex
	result   PingResult
	replied  []bool // by sequence number
	highest  int    // sequence number replied to, -1 before the first
	received chan struct{}
	closed   chan struct{} // when the receiver has ended
}

const pingHeader = 16 // our own in the payload: sequence number, time sent

// Ping sends o.Count requests from inside the namespace and waits for the replies.
func (n Namespace) Ping(ctx context.Context, dst netip.Addr, o PingOptions) (PingResult, error) {
	p, err := n.StartPing(ctx, dst, o)
	if err != nil {
		return PingResult{}, err
	}
	<-p.sender
	return p.Stop()
}

// StartPing pings until o.Count, the end of ctx or Stop.
func (n Namespace) StartPing(ctx context.Context, dst netip.Addr, o PingOptions) (*Pinger, error) {
	if o.Interval == 0 {
		o.Interval = 10 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = Patience * time.Second
	}
	if o.Size == 0 {
		o.Size = 56
	}
	o.Size = max(o.Size, pingHeader)
	var s *icmpSocket
	err := n.Do(func() (err error) {
		s, err = listenICMP(ctx, dst, o.DF)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ping %s from %s: %w", dst, n, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Pinger{
		o: o, socket: s, dst: &net.IPAddr{IP: dst.AsSlice()}, id: int(rand.Uint32() & 0xffff), cancel: cancel,
		sender: make(chan struct{}), highest: -1, received: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	go p.receive()
	go p.send(ctx)
	return p, nil
}

func (p *Pinger) send(ctx context.Context) {
	defer close(p.sender)
	tick := time.NewTicker(p.o.Interval)
	defer tick.Stop()
	for seq := 0; p.o.Count == 0 || seq < p.o.Count; seq++ {
		if err := p.sendOne(seq); err != nil {
			p.note(err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Pinger) sendOne(seq int) error {
	p.mu.Lock()
	p.result.Sent++
	p.replied = append(p.replied, false)
	p.mu.Unlock()
	payload := binary.BigEndian.AppendUint64(nil, uint64(seq))
	payload = binary.BigEndian.AppendUint64(payload, uint64(time.Now().UnixNano()))
	for len(payload) < p.o.Size {
		payload = append(payload, byte(len(payload)))
	}
	m := icmp.Message{Type: p.socket.request, Body: &icmp.Echo{ID: p.id, Seq: (seq + 1) & 0xffff, Data: payload}}
	packet, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = p.socket.conn.WriteTo(packet, p.dst)
	return err
}

func (p *Pinger) receive() {
	defer close(p.closed)
	buf := make([]byte, 65536)
	for {
		n, ttl, err := p.socket.receive(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil { // an ICMP error comes back as the socket's
			p.note(err.Error())
			continue
		}
		m, err := icmp.ParseMessage(p.socket.protocol, buf[:n])
		if err != nil {
			continue
		}
		now := time.Now()
		if echo, ok := m.Body.(*icmp.Echo); ok && m.Type == p.socket.reply && echo.ID == p.id {
			p.reply(echo.Data, ttl, now)
		} else if m.Type != p.socket.request && m.Type != p.socket.reply && p.concerns(m.Body) {
			p.note(fmt.Sprintf("%v code %d", m.Type, m.Code))
		}
	}
}

// concerns reports whether an ICMP error is about one of our requests, whose
// header it quotes.
func (p *Pinger) concerns(body icmp.MessageBody) bool {
	var quoted []byte
	switch b := body.(type) {
	case *icmp.DstUnreach:
		quoted = b.Data
	case *icmp.TimeExceeded:
		quoted = b.Data
	case *icmp.PacketTooBig:
		quoted = b.Data
	}
	return len(quoted) >= p.socket.header+8 && binary.BigEndian.Uint16(quoted[p.socket.header+4:]) == uint16(p.id)
}

func (p *Pinger) reply(payload []byte, ttl int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.result
	if len(payload) != p.o.Size || !intact(payload) {
		r.Damaged++
		return
	}
	seq := int(binary.BigEndian.Uint64(payload))
	switch {
	case seq >= len(p.replied):
		r.Damaged++
		return
	case p.replied[seq]:
		r.Duplicates++
		return
	case seq < p.highest:
		r.Reordered++
	}
	p.replied[seq] = true
	p.highest = max(p.highest, seq)
	r.Received++
	sent := time.Unix(0, int64(binary.BigEndian.Uint64(payload[8:])))
	r.Replies = append(r.Replies, Reply{Seq: seq, TTL: ttl, RTT: now.Sub(sent)})
	select {
	case p.received <- struct{}{}:
	default:
	}
}

func intact(payload []byte) bool {
	for i := pingHeader; i < len(payload); i++ {
		if payload[i] != byte(i) {
			return false
		}
	}
	return true
}

func (p *Pinger) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Errors = append(p.result.Errors, text)
}

// Snapshot is the account as it stands; Lost is empty in it.
func (p *Pinger) Snapshot() PingResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.result
	r.Errors, r.Replies = slices.Clone(r.Errors), slices.Clone(r.Replies)
	return r
}

// Stop ends the sending, waits for the replies still under way and returns the account.
func (p *Pinger) Stop() (PingResult, error) {
	p.cancel()
	<-p.sender
	timeout := time.NewTimer(p.o.Timeout)
	defer timeout.Stop()
	for waiting := true; waiting; {
		if s := p.Snapshot(); s.Received == s.Sent {
			break
		}
		select {
		case <-p.received:
		case <-timeout.C:
			waiting = false
		}
	}
	err := p.socket.conn.Close()
	<-p.closed
	r := p.Snapshot()
	for seq, replied := range p.replied {
		if !replied {
			r.Lost = append(r.Lost, uint64(seq))
		}
	}
	if err != nil {
		return r, fmt.Errorf("end ping: %w", err)
	}
	return r, nil
}
