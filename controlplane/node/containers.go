// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
)

// serve follows this node's containers.
func (p *programs) serve(ctx context.Context) error {
	found := make(chan containers.State, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.followContainers(ctx, found) })
	g.Go(func() error { return p.nat.run(ctx) })
	if !p.FastPath {
		found <- containers.State{}
		return g.Wait()
	}
	o := containers.Options{
		Subnets: p.subnets(), Ignore: ignored(p.uplink.Name),
		Known: p.endpoints.Known(), Logger: p.log,
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
func (p *programs) followContainers(ctx context.Context, found <-chan containers.State) error {
	var state containers.State
	select {
	case <-ctx.Done():
		return nil
	case state = <-found:
	}
	retry := p.containersApplied(p.applyContainers(state))
	if err := p.datapath.Publish(); err != nil {
		return err
	}
	p.ready()
	resync := time.NewTicker(p.resync)
	defer resync.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case state = <-found:
		case <-resync.C:
			err = p.endpoints.Reread()
		case <-retry:
			err = p.endpoints.Reread()
		}
		retry = p.containersApplied(errors.Join(err, p.applyContainers(state)))
	}
}

// containersApplied says how it went, and when to try again: nil is never.
func (p *programs) containersApplied(err error) <-chan time.Time {
	p.reporter.report("containers", err)
	if err == nil {
		return nil
	}
	return time.After(retryEvery)
}

// applyContainers fills in the containers' addresses and attaches to their
// links; where that fails the kernel delivers.
func (p *programs) applyContainers(state containers.State) error {
	p.attaching.Lock()
	defer p.attaching.Unlock()
	wanted := map[int]bool{}
	errs := p.endpoints.Apply(state.Endpoints)
	for _, link := range state.Links {
		wanted[link.Ifindex] = true
		err := p.datapath.Attach(bpf.FromContainer, link.Ifindex)
		if errors.Is(err, unix.ENODEV) {
			continue // it has just gone: a state without it is on its way
		}
		errs = errors.Join(errs, err)
	}
	errs = errors.Join(errs, p.detachExcept(wanted))
	p.status.update(func(now *Status) {
		now.Containers, now.Endpoints = len(state.Links), len(state.Endpoints)
	})
	return errs
}

func (p *programs) detachExcept(wanted map[int]bool) error {
	on, err := p.datapath.Attached(bpf.FromContainer)
	for _, ifindex := range on {
		if !wanted[ifindex] {
			err = errors.Join(err, p.datapath.Detach(bpf.FromContainer, ifindex))
		}
	}
	return err
}
