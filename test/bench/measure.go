// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

const (
	minWarmUp = 50 * time.Millisecond // for neighbours, caches and TCP's window
	maxWarmUp = 500 * time.Millisecond
	callLimit = 10 * time.Second       // for an agent to answer
	patience  = 2 * time.Second        // beyond a measurement's duration, for the first packet
	aside     = 300 * time.Millisecond // to look at what others do
)

func warmUp(d time.Duration) time.Duration { return min(max(d/10, minWarmUp), maxWarmUp) }

// way is what a load is measured on.
type way struct {
	mode           string
	client, server *traffic.Agent
	addr           netip.Addr
}

// measure runs a load once.
func (w way) measure(ctx context.Context, l Load, d time.Duration) (s sample, steal time.Duration, err error) {
	err = w.start(ctx, l)
	var client, server traffic.Count
	if err == nil {
		client, server, err = w.observe(ctx, l, d)
	}
	if stopped := w.stop(ctx); err == nil {
		err = stopped
	}
	if err == nil {
		s, steal, err = sampled(l, client, server)
	}
	if err != nil {
		return s, 0, fmt.Errorf("measure %s in mode %s: %w", l.Name, w.mode, err)
	}
	return s, steal, nil
}

// sampled is what the counts of a measurement come to.
func sampled(l Load, client, server traffic.Count) (s sample, steal time.Duration, err error) {
	c := counted(l, client, server)
	if c.Ops == 0 || c.Bytes == 0 {
		return s, 0, fmt.Errorf("nothing arrived in %v, though %d packets or requests were sent (does a firewall let ports of the kernel's choice through?)",
			c.At.Round(time.Millisecond), client.Ops+client.Nudge)
	}
	busy := c.Busy
	if client.Boot != server.Boot {
		busy = client.Busy + server.Busy
	}
	return sample{l.Unit.rate(c), l.Unit.cpu(busy, c)}, c.Steal, nil
}

func (w way) start(ctx context.Context, l Load) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	serverCore := 1
	if l.OneCore {
		serverCore = 0
	}
	ports, err := w.server.Listen(ctx, l.Spec, serverCore, w.addr)
	if err != nil {
		return err
	}
	err = w.client.Dial(ctx, l.Spec, 0, w.addr, ports)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("connect to port %d of %s (does a firewall let ports of the kernel's choice through?): %w", ports[0], w.addr, err)
	}
	return err
}

// observe lets a load get going and counts what it does in a time.
func (w way) observe(ctx context.Context, l Load, d time.Duration) (client, server traffic.Count, err error) {
	if err = Sleep(ctx, warmUp(d)); err != nil {
		return client, server, err
	}
	clientBefore, serverBefore, err := w.counts(ctx)
	if err != nil {
		return client, server, err
	}
	// On a machine with other things to do an end may not get a CPU in a short time: that is no
	// failure yet. What is counted is divided by the time that it took.
	for limit := time.Now().Add(d + patience); ; {
		if err = Sleep(ctx, d); err != nil {
			return client, server, err
		}
		client, server, err = w.counts(ctx)
		client, server = client.Since(clientBefore), server.Since(serverBefore)
		if err != nil || counted(l, client, server).Ops > 0 || time.Now().After(limit) {
			return client, server, err
		}
	}
}

// counted is the count that tells what a load did: at the end where it arrived.
func counted(l Load, client, server traffic.Count) traffic.Count {
	if l.Unit.delivered {
		return server
	}
	return client
}

func (w way) counts(ctx context.Context) (client, server traffic.Count, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if client, err = w.client.Count(ctx); err != nil {
		return client, server, err
	}
	server, err = w.server.Count(ctx)
	return client, server, err
}

// stop ends a load and tells what went wrong in it. The client ends first: the
// server takes its going for the end.
func (w way) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return errors.Join(w.client.Stop(ctx), w.server.Stop(ctx))
}

// Sleep waits, or returns the error of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// background is the share of all CPUs' time that others take, while nothing is measured.
func background(ctx context.Context) (float64, error) {
	before, err := traffic.ReadMachine()
	if err != nil {
		return 0, err
	}
	if err = Sleep(ctx, aside); err != nil {
		return 0, err
	}
	after, err := traffic.ReadMachine()
	if err != nil {
		return 0, err
	}
	c := after.Since(before)
	return c.Busy.Seconds() / (c.At.Seconds() * float64(c.CPUs)), nil
}
