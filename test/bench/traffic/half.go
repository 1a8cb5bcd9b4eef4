// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// half is one half of a load, running.
type half struct {
	flows []*flow
	nudge chan struct{} // closed to end the nudger
	wg    sync.WaitGroup
}

// flow is one flow of a half. Its thread alone uses it, but for what is atomic.
type flow struct {
	spec    Spec
	to      netip.AddrPort // dialler: where to
	fd      int            // listener: the port's; dialler: the connection, -1 where each request has its own
	ops     atomic.Uint64
	bytes   atomic.Uint64
	nudged  atomic.Uint64
	stopped *atomic.Bool
	conn    atomic.Int64 // listener: the connection accepted, plus 1; 0: none
	err     error        // why the thread ended, before it was stopped
	_       [64]byte     // flows' counters share no cache line
}

func (f *flow) done(bytes int) { f.doneMany(1, uint64(bytes)) }

// doneMany counts the bytes first and count reads them last: there are never
// fewer than the operations had.
func (f *flow) doneMany(ops int, bytes uint64) {
	f.bytes.Add(bytes)
	f.ops.Add(uint64(ops))
}

// startListener opens the ports of a load and answers at them.
func startListener(s Spec, addr netip.Addr, cpu int) (h *half, ports []uint16, err error) {
	p := patterns[s.Kind]
	fds := make([]int, 0, p.ports(s))
	for range p.ports(s) {
		fd, port, err := listen(addr, p.udp)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(fds))
		}
		fds, ports = append(fds, fd), append(ports, port)
	}
	h = newHalf(s)
	for i, f := range h.flows {
		f.fd = fds[i%len(fds)]
	}
	h.start(p.listen, cpu)
	return h, ports, nil
}

// startDialler connects to a listener's ports and sends.
func startDialler(s Spec, addr netip.Addr, ports []uint16, cpu int) (*half, error) {
	p := patterns[s.Kind]
	if len(ports) != p.ports(s) {
		return nil, fmt.Errorf("%d ports for a load of kind %s, want %d", len(ports), s.Kind, p.ports(s))
	}
	h := newHalf(s)
	for i, f := range h.flows {
		f.to = netip.AddrPortFrom(addr, ports[i%len(ports)])
		if s.Kind == TCPCRR {
			continue
		}
		var err error
		if f.fd, err = dial(f.to, p.udp); err != nil {
			return nil, errors.Join(err, h.close())
		}
	}
	h.start(p.dial, cpu)
	if s.Kind == UDPRR {
		h.wg.Go(h.nudgeStalled)
	}
	return h, nil
}

func newHalf(s Spec) *half {
	h := &half{nudge: make(chan struct{})}
	stopped := new(atomic.Bool)
	for range s.Flows {
		h.flows = append(h.flows, &flow{spec: s, fd: -1, stopped: stopped})
	}
	return h
}

// start runs each flow on a thread of its own, all on one CPU.
func (h *half) start(run func(*flow) error, cpu int) {
	// A thread blocked in the kernel keeps its P. Now, before there is any, is the time to add some.
	runtime.GOMAXPROCS(len(h.flows) + runtime.NumCPU() + 2)
	for _, f := range h.flows {
		h.wg.Go(func() {
			err := Pin(cpu)
			if err == nil {
				err = run(f)
			}
			if !f.stopped.Load() {
				f.err = err
			}
		})
	}
}

const stalled = 100 * time.Millisecond

// nudgeStalled sends a request of its own for a flow whose datagram was lost:
// it would wait for ever.
func (h *half) nudgeStalled() {
	tick := time.NewTicker(stalled)
	defer tick.Stop()
	last := make([]uint64, len(h.flows))
	for {
		select {
		case <-h.nudge:
			return
		case <-tick.C:
		}
		for i, f := range h.flows {
			if now := f.ops.Load(); now != last[i] {
				last[i] = now
				continue
			}
			f.nudged.Add(1)
			_, _ = send(f.fd, make([]byte, f.spec.Size)) // what is wrong, the flow's thread finds too
		}
	}
}

// count adds the flows' counts up.
func (h *half) count() (Count, error) {
	c, err := ReadMachine()
	for _, f := range h.flows {
		c.Ops += f.ops.Load()
		c.Bytes += f.bytes.Load()
		c.Nudge += f.nudged.Load()
	}
	return c, err
}

// stop ends the flows and returns what ended any of them before.
func (h *half) stop() error {
	h.flows[0].stopped.Store(true)
	close(h.nudge)
	for _, f := range h.flows {
		shut(f.fd)
		if conn := f.conn.Load(); conn != 0 {
			shut(int(conn) - 1)
		}
	}
	h.wg.Wait()
	err := h.close()
	for _, f := range h.flows {
		err = errors.Join(err, f.err)
	}
	return err
}

// close closes the flows' sockets, each once.
func (h *half) close() error {
	var fds []int
	seen := map[int]bool{-1: true}
	for _, f := range h.flows {
		if !seen[f.fd] {
			seen[f.fd] = true
			fds = append(fds, f.fd)
		}
	}
	return closeAll(fds)
}

func closeAll(fds []int) (err error) {
	for _, fd := range fds {
		if e := unix.Close(fd); e != nil {
			err = errors.Join(err, fmt.Errorf("close socket: %w", e))
		}
	}
	return err
}
