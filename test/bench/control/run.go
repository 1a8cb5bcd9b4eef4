// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/lab"
)

const (
	labName  = "benchcontrol"
	calm     = 2 * time.Second // after the last change, before idleness is measured
	idleness = 5 * time.Second
)

// Run measures the daemon in each cluster, one after another, and leaves nothing behind.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &Report{Rate: o.Rate, Changes: o.Changes}
	var err error
	if r.Machine, err = bench.DescribeMachine(ctx); err != nil {
		return nil, err
	}
	for i, nodes := range o.Nodes {
		step := func(text string) {
			if o.Progress != nil {
				o.Progress(bench.Step{Text: fmt.Sprintf("cluster %d of %d, %d nodes: %s", i+1, len(o.Nodes), nodes, text)})
			}
		}
		result, err := runCluster(ctx, o, nodes, step)
		if err != nil {
			return nil, fmt.Errorf("%d nodes: %w", nodes, err)
		}
		r.Results = append(r.Results, result)
	}
	return r, nil
}

// runCluster measures in a lab of one host.
func runCluster(ctx context.Context, o Options, nodes int, step func(string)) (r Result, err error) {
	options := lab.Defaults()
	options.Name, options.Hosts, options.Containers = labName, 1, 0
	l, err := lab.Up(ctx, options)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	h := l.Hosts[0]
	step("putting their leases into etcd")
	e, err := startEtcd(ctx, l, o.Binary)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if err = configure(ctx, e.Client); err != nil {
		return r, err
	}
	if err = join(ctx, e.Client, 0, nodes); err != nil {
		return r, err
	}
	r, err = measure(ctx, o, l, e, nodes, step)
	// Route by route: with the namespace it takes the kernel minutes, in which no other network can be configured.
	return r, errors.Join(err, h.NS.Do(netlink.Cleanup))
}

func measure(ctx context.Context, o Options, l *lab.Lab, e *etcd, nodes int, step func(string)) (r Result, err error) {
	h := l.Hosts[0]
	r.Nodes = nodes
	step("starting the daemon, and again")
	room := nodes + o.Changes
	var d *daemon
	var view time.Duration // of the restart: nothing is written
	for _, took := range []struct{ sync, view *time.Duration }{{&r.FirstSync, &r.KernelView}, {&r.Restart, &view}} {
		if d != nil {
			if err = d.stop(); err != nil {
				return r, err
			}
		}
		if d, *took.sync, *took.view, err = startDaemon(ctx, l, o.Binary, nodes, room); err != nil {
			return r, err
		}
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	step(fmt.Sprintf("%d more join, %d a second", o.Changes, o.Rate))
	if r.P50, r.P99, r.Max, err = spread(joinAtRate(ctx, h, e.Client, nodes, false, o)); err != nil {
		return r, err
	}
	step("as many are replaced, each by another")
	if r.ReplaceP50, r.ReplaceP99, r.ReplaceMax, err = spread(joinAtRate(ctx, h, e.Client, nodes+o.Changes, true, o)); err != nil {
		return r, err
	}
	step("idling")
	if r.IdleCPU, err = d.idle(ctx); err != nil {
		return r, err
	}
	if r.RSS, r.PeakRSS, err = d.memory(); err != nil {
		return r, err
	}
	r.Maps, err = mapMemory(h)
	return r, err
}

// spread is what is told of times that were measured.
func spread(sorted []time.Duration, err error) (p50, p99, most time.Duration, _ error) {
	if err != nil {
		return 0, 0, 0, err
	}
	return quantile(sorted, 0.5), quantile(sorted, 0.99), sorted[len(sorted)-1], nil
}

// idle is the share of a CPU that the daemon takes while nothing changes.
func (d *daemon) idle(ctx context.Context) (float64, error) {
	if err := bench.Sleep(ctx, calm); err != nil {
		return 0, err
	}
	before, err := d.cpu()
	if err != nil {
		return 0, err
	}
	if err = bench.Sleep(ctx, idleness); err != nil {
		return 0, err
	}
	after, err := d.cpu()
	return (after - before).Seconds() / idleness.Seconds(), err
}
