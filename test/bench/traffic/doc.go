// SPDX-License-Identifier: Apache-2.0

// Package traffic makes the load of a benchmark, and counts it.
//
// An Agent is a process that sits at one end of a path and does one half of a
// load at a time: it listens, or it dials. Who measures tells both ends what
// to do, each over a stream of JSON (a pipe or a TCP connection), and reads
// their counts while the load runs.
//
// The generators must cost little beside what they measure, so they make their
// system calls directly: a flow is a thread, pinned to a core, that blocks in
// the kernel and not in Go's poller. Such a thread cannot be stopped by the
// runtime, so an agent is a process of its own, without garbage collection.
package traffic

import (
	"fmt"
	"slices"
	"strings"
)

// Spec is a load.
type Spec struct {
	Kind  Kind
	Flows int // at once, each a thread at both ends
	Size  int // bytes: of a datagram, of a request and of its answer, or of one write to a stream
}

// Kind is the pattern of a load.
type Kind string

// The kinds of load.
const (
	TCPStream Kind = "tcp-stream" // dialler to listener, as much as goes
	TCPRR     Kind = "tcp-rr"     // request and answer, in turn
	TCPCRR    Kind = "tcp-crr"    // connect, request, answer, close
	UDPRR     Kind = "udp-rr"     // request and answer, in turn
	UDPFlood  Kind = "udp-flood"  // dialler to listener, as many as go
)

// Most that a spec may ask for: an agent that serves the network believes nobody.
const (
	maxFlows = 1024
	maxSize  = 1 << 20
	maxUDP   = 65507 // payload of the largest datagram over IPv4
)

// pattern is what a kind is made of.
type pattern struct {
	udp          bool
	ports        func(Spec) int // that the listener opens
	listen, dial func(*flow) error
}

var patterns = map[Kind]pattern{
	TCPStream: {ports: onePort, listen: receiveStream, dial: sendStream},
	TCPRR:     {ports: onePort, listen: answerTCP, dial: askTCP},
	TCPCRR:    {ports: onePort, listen: answerConnections, dial: askByConnections},
	UDPRR:     {udp: true, ports: portPerFlow, listen: answerUDP, dial: askUDP},
	UDPFlood:  {udp: true, ports: portPerFlow, listen: receiveFlood, dial: sendFlood},
}

func onePort(Spec) int       { return 1 }
func portPerFlow(s Spec) int { return s.Flows }

func (s Spec) validate() error {
	p, ok := patterns[s.Kind]
	largest := maxSize
	if p.udp {
		largest = maxUDP
	}
	switch {
	case !ok:
		var kinds []string
		for k := range patterns {
			kinds = append(kinds, string(k))
		}
		slices.Sort(kinds)
		return fmt.Errorf("load %q: use one of %s", s.Kind, strings.Join(kinds, ", "))
	case s.Flows < 1 || s.Flows > maxFlows:
		return fmt.Errorf("load of %d flows: use 1 to %d", s.Flows, maxFlows)
	case s.Size < 1 || s.Size > largest:
		return fmt.Errorf("load of %d bytes: use 1 to %d", s.Size, largest)
	}
	return nil
}
