// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
)

// containers follows this node's containers once the network is served.
func (l *loop) containers(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.synced:
	}
	found := make(chan containers.State, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.followContainers(ctx, found) })
	if !l.FastPath {
		found <- containers.State{}
		return g.Wait()
	}
	o := containers.Options{
		Subnet: l.self.Subnet, Ignore: ignored(l.uplink.Name),
		Known: l.endpoints.Known(), Logger: l.log,
	}
	g.Go(func() error {
		return containers.Watch(ctx, o, func(s containers.State) error {
			select {
			case <-found: // nobody needs the one before
			default:
			}
			found <- s
			return nil
		})
	})
	return g.Wait()
}

// followContainers applies what is found, and again what failed or may have
// been undone by others: a state comes only when it has changed.
func (l *loop) followContainers(ctx context.Context, found <-chan containers.State) error {
	var state containers.State
	select {
	case <-ctx.Done():
		return nil
	case state = <-found:
	}
	retry := l.containersApplied(l.applyContainers(state))
	if err := l.ready(); err != nil {
		return err
	}
	resync := time.NewTicker(l.resync)
	defer resync.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case state = <-found:
		case <-resync.C:
			err = l.endpoints.Reread()
		case <-retry:
			err = l.endpoints.Reread()
		}
		retry = l.containersApplied(errors.Join(err, l.applyContainers(state)))
	}
}

// containersApplied says how it went, and when to try again: nil is never.
func (l *loop) containersApplied(err error) <-chan time.Time {
	l.reporter.report("containers", err)
	if err == nil {
		return nil
	}
	return time.After(retryEvery)
}

// applyContainers attaches to the containers' links and fills in their
// addresses; where that fails the kernel delivers.
func (l *loop) applyContainers(state containers.State) error {
	l.attaching.Lock()
	defer l.attaching.Unlock()
	wanted := map[int]bool{}
	var errs error
	for _, link := range state.Links {
		wanted[link.Ifindex] = true
		errs = errors.Join(errs, l.datapath.Attach(bpf.FromContainer, link.Ifindex))
	}
	errs = errors.Join(errs, l.endpoints.Apply(state.Endpoints), l.detachExcept(wanted))
	l.status.update(func(now *Status) {
		now.Containers, now.Endpoints = len(state.Links), len(state.Endpoints)
	})
	return errs
}

func (l *loop) detachExcept(wanted map[int]bool) error {
	on, err := l.datapath.Attached(bpf.FromContainer)
	for _, ifindex := range on {
		if !wanted[ifindex] {
			err = errors.Join(err, l.datapath.Detach(bpf.FromContainer, ifindex))
		}
	}
	return err
}
