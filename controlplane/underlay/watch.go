// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// coalesce is how long after the first change of a burst the call is made:
// setting up one interface is a dozen announcements.
const coalesce = 50 * time.Millisecond

// Of routing rules and next hop objects too: they change where routes lead.
var watched = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
}

// Watch calls changed when links, addresses or routes of the underlay changed,
// once for a burst of changes, and a first time as soon as it listens, so that
// nothing between the caller's own look and Watch is missed. Where the kernel
// had to drop announcements, changed is called as well. Not counted are
// containers' veths with their routes, IPv6's link-local addresses and routes, that routers
// prolong the life of an address, neighbours, what the overlay gets (but what it loses,
// whoever removed it), and the overlay device as long as it is up.
//
// It works in the calling goroutine, changed included, and returns nil once ctx
// is done. The namespace is that of the thread that calls it.
func Watch(ctx context.Context, changed func()) error {
	for {
		// What the socket does not hold is dropped, and without another word all that comes until somebody
		// has emptied it (netlink_overrun in net/netlink/af_netlink.c). So this begins again with another.
		err := watch(ctx, changed)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(coalesce): // what overflowed the socket is a burst as well
		}
	}
}

// watch is Watch until announcements are lost.
func watch(ctx context.Context, changed func()) error {
	w, err := listen()
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.socket.Close)()
	for {
		changed()
		if err := w.wait(); err != nil {
			return err
		}
	}
}

// watcher turns announcements into bursts.
type watcher struct {
	socket *nl.NetlinkSocket
	judge  *judge
	known  addresses
}

func listen() (*watcher, error) {
	j, err := newJudge()
	if err != nil {
		return nil, err
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, watched...)
	if err != nil {
		j.Close()
		return nil, fmt.Errorf("subscribe to the kernel's announcements: %w", err)
	}
	if err = rtnl.IgnoreWriter(s.GetFd()); err != nil {
		s.Close()
		j.Close()
		return nil, err
	}
	return &watcher{socket: s, judge: j, known: addresses{}}, nil
}

func (w *watcher) close() {
	w.socket.Close()
	w.judge.Close()
}

// wait returns once a burst that matters has passed.
func (w *watcher) wait() error {
	for {
		matters, err := w.burst()
		if matters || err != nil {
			return err
		}
	}
}

// burst reads one burst of announcements, however long the first takes.
func (w *watcher) burst() (matters bool, err error) {
	var seen suspects
	var end time.Time
	for {
		err = w.read(end, &seen)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return w.judge.matters(seen), nil
		}
		if err != nil {
			return false, fmt.Errorf("read the kernel's announcements: %w", err)
		}
		if end.IsZero() {
			end = time.Now().Add(coalesce)
		}
	}
}

// read takes what one datagram holds, waiting until then; zero is for ever.
func (w *watcher) read(until time.Time, s *suspects) error {
	if !until.IsZero() {
		left := time.Until(until)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timeout := unix.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
		if err := w.socket.SetReceiveTimeout(&timeout); err != nil {
			return err
		}
	} else if err := w.socket.SetReceiveTimeout(&unix.Timeval{}); err != nil {
		return err
	}
	msgs, from, err := w.socket.Receive()
	if errors.Is(err, unix.EAGAIN) {
		return os.ErrDeadlineExceeded
	}
	if err != nil || from.Pid != nl.PidKernel {
		return err
	}
	for _, m := range msgs {
		s.add(w.known, m.Header.Type, m.Data)
	}
	return nil
}
