// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const captureBuffer = 64 << 20 // bytes, of packets that the reader has not come to yet

// Capture is a running capture.
type Capture struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	packets []Packet
	more    chan struct{} // closed and renewed with each packet
	err     error
}

// Capture records all packets of an interface, from before it returns until Stop.
func (n Namespace) Capture(iface string) (*Capture, error) {
	var fd int
	err := n.Do(func() (err error) {
		fd, err = packetSocket(iface)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %s in %s: %w", iface, n, err)
	}
	file := os.NewFile(uintptr(fd), "capture on "+iface)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture on %s in %s: %w", iface, n, err), file.Close())
	}
	c := &Capture{file: file, raw: raw, done: make(chan struct{}), more: make(chan struct{})}
	go c.read()
	return c, nil
}

// packetSocket is bound to the interface before it hears anything, so that it
// never holds packets of another.
func packetSocket(iface string) (fd int, err error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return -1, err
	}
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	options := []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1},
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
	}
	for _, o := range options {
		err = errors.Join(err, unix.SetsockoptInt(fd, o.level, o.name, o.value))
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Index})
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("set packet socket up: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// read takes packets until Stop ends it.
func (c *Capture) read() {
	defer close(c.done)
	for {
		var err error
		readErr := c.raw.Read(func(fd uintptr) bool {
			err = c.receive(int(fd))
			return !errors.Is(err, unix.EAGAIN)
		})
		if readErr != nil || err != nil {
			return // readErr is Stop's deadline
		}
	}
}

// drain takes what has been captured but not read.
func (c *Capture) drain() error {
	return c.raw.Control(func(fd uintptr) {
		var err error
		for err == nil {
			err = c.receive(int(fd))
		}
	})
}

// receive reads one packet and adds it, at once for all who do: else one that was read
// first could be added last. EAGAIN is that there is none.
func (c *Capture) receive(fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := receivePacket(fd)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return err
	case err != nil:
		c.err = errors.Join(c.err, err)
	default:
		c.packets = append(c.packets, p)
	}
	close(c.more)
	c.more = make(chan struct{})
	return err
}

// Packets are those captured so far.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets)
}

// Take returns the packets that have passed the interface since the last Take, and forgets them.
func (c *Capture) Take() ([]Packet, error) {
	err := c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	packets := c.packets
	c.packets = nil
	if err = errors.Join(err, c.err); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return packets, nil
}

// WaitFor waits until want says yes to one of the packets, and returns it.
func (c *Capture) WaitFor(ctx context.Context, want func(Packet) bool) (Packet, error) {
	seen := 0
	for {
		c.mu.Lock()
		packets, more, err := c.packets[seen:], c.more, c.err
		c.mu.Unlock()
		if i := slices.IndexFunc(packets, want); i >= 0 {
			return packets[i], nil
		}
		seen += len(packets)
		if err != nil {
			return Packet{}, fmt.Errorf("capture: %w", err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Packet{}, fmt.Errorf("wait for a packet, %d others seen: %w", seen, ctx.Err())
		}
	}
}

// Stop ends the capture and returns its packets, all that had passed the
// interface before and were not taken. It fails if the kernel dropped any for want of room.
func (c *Capture) Stop() ([]Packet, error) {
	err := c.file.SetReadDeadline(time.Now())
	<-c.done
	var stats *unix.TpacketStats
	var statsErr error
	err = errors.Join(err, c.drain(), c.raw.Control(func(fd uintptr) {
		stats, statsErr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}))
	err = errors.Join(err, c.err, statsErr, c.file.Close())
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("%d packets did not fit its buffer", stats.Drops)
	}
	if err != nil {
		return nil, fmt.Errorf("end capture: %w", err)
	}
	return c.packets, nil
}
