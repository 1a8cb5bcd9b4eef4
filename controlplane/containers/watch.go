// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

const (
	// coalesce is how long the changes after a first one are gathered before
	// State is delivered: a container's start makes a dozen of them.
	coalesce = 5 * time.Millisecond

	// receiveBuffer holds the notifications of several thousand changes.
	receiveBuffer = 8 << 20
)

// Watch delivers State once when everything has been listed, and again each time
// it has changed; deliver may keep it but not change it. Watch runs until ctx ends
// (it returns ctx.Err()), deliver returns an error (it returns that one as it is),
// or the kernel cannot be asked.
//
// Watch looks at the network namespace of the thread it is called on. It does all
// its work, deliver included, on the calling goroutine, so a goroutine locked to
// a thread in another namespace watches that one.
func Watch(ctx context.Context, o Options, deliver func(State) error) error {
	if len(o.Subnets) == 0 || slices.ContainsFunc(o.Subnets, func(p netip.Prefix) bool { return !p.IsValid() }) {
		return errors.New("watch containers: no valid subnet given")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := watcher{
		machines: newMachines(o.Subnets, o.Ignore),
		known:    o.Known,
		log:      o.Logger,
		deliver:  deliver,
		buffer:   receiveBuffer,
		every:    verifyEvery,
	}
	return w.run(ctx)
}

// watcher feeds the kernel's notifications to a machine for each subnet.
type watcher struct {
	machines  []*machine
	known     []Endpoint // not yet adopted
	log       *slog.Logger
	deliver   func(State) error
	delivered *State // nil before the first time
	buffer    int    // of the socket, bytes
	every     time.Duration
	verifyAt  time.Time
}

func (w *watcher) run(ctx context.Context) error {
	for {
		err := w.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		w.log.Warn("the kernel sent network changes faster than they were read; listing containers again")
		if err := pause(ctx, relistPause); err != nil {
			return err
		}
	}
}

// session lists everything and follows the changes on one socket. A listing is
// taken after the socket has been subscribed, and what the socket holds is
// applied after it, so each entry ends as the kernel last had it.
func (w *watcher) session(ctx context.Context) error {
	socket, err := w.subscribe()
	if err != nil {
		return err
	}
	defer socket.Close()
	defer context.AfterFunc(ctx, socket.Close)()

	for _, m := range w.machines {
		tables, err := list(ctx, m.subnet)
		if err != nil {
			return err
		}
		m.reset(tables)
		m.adopt(w.known)
	}
	w.known = nil
	w.verifyAt = time.Now().Add(w.every)
	for {
		if err := w.publish(); err != nil {
			return err
		}
		w.ask()
		w.verify()
		if err := w.gather(socket); err != nil {
			return err
		}
		if err := w.settleDoubt(ctx); err != nil {
			return err
		}
	}
}

// settleDoubt lists the routes again where notifications do not tell what they are. Of those that
// the listing is ahead of, each that does not fit it raises the doubt anew.
func (w *watcher) settleDoubt(ctx context.Context) error {
	for _, m := range w.machines {
		if !m.doubt {
			continue
		}
		listed, err := listThese(ctx, m.subnet, []listing{routes(family(m.subnet))})
		if err != nil {
			return err
		}
		m.resetRoutes(listed)
	}
	return nil
}

// subscribe opens one socket for all kinds of change: the kernel keeps them in
// order only within a socket.
func (w *watcher) subscribe() (*nl.NetlinkSocket, error) {
	groups := []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_NEXTHOP}
	for _, m := range w.machines {
		if family(m.subnet) == unix.AF_INET6 {
			groups = append(groups, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
		} else {
			groups = append(groups, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
		}
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	// Beyond net.core.rmem_max only with CAP_NET_ADMIN; a smaller one does too.
	if socket.SetReceiveBufferSize(w.buffer, true) != nil {
		err = socket.SetReceiveBufferSize(w.buffer, false)
	}
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("size netlink receive buffer: %w", err)
	}
	if err = rtnl.IgnoreWriter(socket.GetFd()); err != nil { // which writes of other nodes' containers
		socket.Close()
		return nil, err
	}
	return socket, nil
}

// gather waits for a change and takes in what follows it within coalesce, or
// until it is time to verify.
func (w *watcher) gather(socket *nl.NetlinkSocket) error {
	wait := max(time.Until(w.verifyAt), time.Microsecond)
	var deadline time.Time
	for {
		timeout := unix.NsecToTimeval(int64(wait))
		if err := socket.SetReceiveTimeout(&timeout); err != nil {
			return fmt.Errorf("set netlink receive timeout: %w", err)
		}
		msgs, from, err := socket.Receive()
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive network changes: %w", err)
		}
		if from.Pid == nl.PidKernel {
			w.apply(msgs)
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(coalesce)
		}
		// Less than a microsecond would be cut to no timeout at all.
		if wait = time.Until(deadline); wait < time.Microsecond {
			return nil
		}
	}
}

func (w *watcher) apply(msgs []syscall.NetlinkMessage) {
	for _, msg := range msgs {
		e, ok := parse(msg.Header.Type, msg.Data)
		if !ok {
			continue
		}
		for _, m := range w.machines {
			m.apply(e)
		}
	}
}

// publish delivers State if it is not what was delivered last.
func (w *watcher) publish() error {
	s := stateOf(w.machines...)
	if w.delivered != nil && w.delivered.equal(s) {
		return nil
	}
	w.delivered = &s
	return w.deliver(s)
}
