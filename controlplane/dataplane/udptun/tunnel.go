// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// drainMost bounds, in packets, what the end of Run still copies each way: more than wait at once, be it
// queueLength in the device or small ones in the socket's buffer.
const drainMost = 1 << 14

// Options say what the tunnel is. All are needed.
type Options struct {
	Subnet netip.Prefix // this node's: where packets from the wire may go
	Node   netip.Addr   // the underlay address to bind
	Port   uint16       // UDP port of this node and of all peers; flannel's is 8285
	MTU    int          // of the device: the largest inner packet, bytes
	Logger *slog.Logger
}

func (o Options) check() error {
	if !o.Node.Is4() || !o.Subnet.IsValid() || !o.Subnet.Addr().Is4() {
		return fmt.Errorf("open udp tunnel of %s for %s: only IPv4 is supported", o.Node, o.Subnet)
	}
	if o.Port == 0 {
		return errors.New("open udp tunnel: a port is needed")
	}
	return nil
}

// Tunnel is the device, the socket, and what goes where.
type Tunnel struct {
	options  Options
	device   device
	tun      syscall.RawConn // the device's file
	conn     *net.UDPConn
	socket   syscall.RawConn // conn's
	icmp     *icmpSender
	table    atomic.Pointer[table]
	counters counters
}

// Open creates or adopts the device and binds the socket, in the network
// namespace of the calling thread. Nothing is copied until Run; what comes
// before waits in the device's queue and in the socket.
func Open(o Options) (_ *Tunnel, err error) {
	if err = o.check(); err != nil {
		return nil, err
	}
	t := &Tunnel{options: o, counters: counters{start: time.Now(), log: o.Logger}}
	t.SetPeers(nil)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.conn, err = openSocket(context.Background(), netip.AddrPortFrom(o.Node, o.Port)); err != nil {
		return nil, err
	}
	if t.icmp, err = openICMP(); err != nil {
		return nil, err
	}
	if t.device, err = openDevice(o.MTU); err != nil {
		return nil, err
	}
	if t.socket, err = t.conn.SyscallConn(); err != nil {
		return nil, fmt.Errorf("get the tunnel's socket: %w", err)
	}
	if t.tun, err = t.device.SyscallConn(); err != nil {
		return nil, fmt.Errorf("get %s: %w", DeviceName, err)
	}
	return t, nil
}

// Ifindex is the device's.
func (t *Tunnel) Ifindex() int { return t.device.ifindex }

// SetPeers replaces all peers at once. Packets that are being copied go by the
// peers of before. Of two peers with one subnet the later counts.
func (t *Tunnel) SetPeers(peers []Peer) { t.table.Store(newTable(t.options.Subnet, peers)) }

// Stats returns what was counted so far.
func (t *Tunnel) Stats() Stats { return t.counters.stats() }

// Run copies packets both ways until ctx ends, and then what was queued by then.
// It fails where the device is removed under it: Close, and Open again. It may
// be called again after it has returned, but not before.
func (t *Tunnel) Run(ctx context.Context) error {
	if err := t.setReadDeadline(time.Time{}); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return t.transmit(ctx) })
	group.Go(func() error { return t.receive(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		return t.setReadDeadline(time.Now())
	})
	return group.Wait()
}

func (t *Tunnel) setReadDeadline(at time.Time) error {
	if err := errors.Join(t.device.SetReadDeadline(at), t.conn.SetReadDeadline(at)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	return nil
}

// Close detaches from the device, which stays, and closes the socket. Call it
// after Run has returned.
func (t *Tunnel) Close() error {
	var errs []error
	if t.device.File != nil {
		errs = append(errs, t.device.Close())
	}
	if t.conn != nil {
		errs = append(errs, t.conn.Close())
	}
	if t.icmp != nil {
		errs = append(errs, t.icmp.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close udp tunnel: %w", err)
	}
	return nil
}
