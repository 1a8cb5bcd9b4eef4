// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// Reason is why a packet was dropped. Where the ebpf dataplane drops for the
// same reason, it has the same name there.
type Reason uint8

// The reasons. Each packet is counted under the first that holds.
const (
	none          Reason = iota
	Protocol             // from the device: no IPv4
	Malformed            // truncated, or lengths that contradict each other, or a wrong header checksum
	NoRoute              // from the device: no peer's subnet holds the destination; answered by ICMP
	TTL                  // expired here; answered by ICMP
	UnknownHost          // from the wire: the sending node is no peer
	SpoofedSource        // from the wire: the inner source is not of the sending node
	NotLocal             // from the wire: the inner destination is not of this node's subnet
	ECN                  // from the wire: congestion marked on a flow without ECN (RFC 6040, 4.2)
	Send                 // the kernel refused to send the datagram
	Deliver              // the kernel refused the packet written to the device
	reasons
)

var reasonNames = [reasons]string{
	Protocol: "protocol", Malformed: "inner_malformed", NoRoute: "no_route", TTL: "ttl",
	UnknownHost: "unknown_host", SpoofedSource: "spoofed_source", NotLocal: "not_local",
	ECN: "ecn", Send: "send", Deliver: "deliver",
}

func (r Reason) String() string { return reasonNames[r] }

// Traffic is a number of packets and the bytes of those packets, the outer
// header not counted.
type Traffic struct{ Packets, Bytes uint64 }

// Stats are counted from Open on.
type Stats struct {
	Sent      Traffic           // as datagrams to peers
	Delivered Traffic           // into the device
	Drops     map[Reason]uint64 // packets; every reason is in it
}

// Dropped is the sum of all drops.
func (s Stats) Dropped() (n uint64) {
	for _, packets := range s.Drops {
		n += packets
	}
	return n
}

// quiet is how long there has to be no drop of a kind for the next to be logged
// as a beginning.
const quiet = time.Minute

type traffic struct{ packets, bytes atomic.Uint64 }

func (t *traffic) add(packets, bytes int) {
	t.packets.Add(uint64(packets))
	t.bytes.Add(uint64(bytes))
}

func (t *traffic) load() Traffic { return Traffic{t.packets.Load(), t.bytes.Load()} }

type drops struct {
	packets atomic.Uint64
	last    atomic.Int64 // when, since start
}

type counters struct {
	start           time.Time
	log             *slog.Logger
	sent, delivered traffic
	drops           [reasons]drops
}

// drop counts a packet and, where drops of the kind begin, logs it as an example.
// detail is called only then.
func (c *counters) drop(r Reason, detail func() []any) {
	d := &c.drops[r]
	now := time.Since(c.start)
	last := time.Duration(d.last.Swap(int64(now)))
	if d.packets.Add(1) == 1 || now-last > quiet {
		c.log.Warn("the udp tunnel drops packets", append([]any{"reason", r.String()}, detail()...)...)
	}
}

func (c *counters) stats() Stats {
	s := Stats{Sent: c.sent.load(), Delivered: c.delivered.load(), Drops: make(map[Reason]uint64, reasons)}
	for r := none + 1; r < reasons; r++ {
		s.Drops[r] = c.drops[r].packets.Load()
	}
	return s
}
