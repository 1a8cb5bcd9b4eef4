// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say what to measure.
type Options struct {
	Modes    []Mode
	Loads    []Load
	Rounds   int
	Duration time.Duration // of each measurement, warm-up aside
	Limit    time.Duration // of the whole run: rounds after the first that do not fit are left out; 0: none are
	Binary   string        // bpfnet: agents and daemons are started from it

	Progress func(Step) // told of each step before it is done; may be nil
}

// Step is how far a run is.
type Step struct {
	Text        string
	Done, Total int           // measurements; Total is 0 before the first
	Left        time.Duration // until the last
}

// Validate tells what of the options cannot be done.
func (o Options) Validate() error {
	switch {
	case o.Rounds < 1:
		return fmt.Errorf("%d rounds: at least 1 is needed", o.Rounds)
	case o.Duration < 10*time.Millisecond || o.Duration > time.Hour:
		return fmt.Errorf("a duration of %v: use 10ms to 1h", o.Duration)
	}
	return nil
}

// Run measures the modes, each in a lab of its own, and removes all of them.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	if err = o.Validate(); err != nil {
		return nil, err
	}
	began := time.Now()
	r = &Report{}
	if r.Machine, err = DescribeMachine(ctx); err != nil {
		return nil, err
	}
	var possible []Mode
	possible, r.Absent = sort(o.Modes)
	if len(possible) == 0 {
		return nil, fmt.Errorf("none of the modes can be had: %s", r.Absent[0].Reason)
	}
	if err = clearLabs(); err != nil {
		return nil, err
	}
	sites, err := openSites(ctx, possible, o)
	defer func() { err = errors.Join(err, closeSites(sites)) }()
	if err != nil {
		return nil, err
	}
	if err = sites[0].describe(&r.Machine); err != nil {
		return nil, err
	}
	var ways []way
	for _, s := range sites {
		ways = append(ways, way{s.mode.Name, s.client, s.server, s.addr})
	}
	p := &plan{Options: o, began: began, ways: ways, prepare: func(i int, l Load) (func() error, error) { return sites[i].withFeatures(l.Uplink, l.Wire) }}
	before, err := tallies(sites)
	if err != nil {
		return nil, err
	}
	if err := p.run(ctx, r); err != nil {
		return nil, err
	}
	o.tell(Step{Text: "proving the way of the packets again, and taking it all down"})
	return r, verifyAfter(ctx, sites, before)
}

// sort tells the modes that this machine can have from those it cannot.
func sort(modes []Mode) (possible []Mode, absent []Absent) {
	absent = []Absent{}
	for _, m := range modes {
		if err := m.needs(); err != nil {
			absent = append(absent, Absent{Mode: m.Name, Reason: err.Error()})
			continue
		}
		possible = append(possible, m)
	}
	return possible, absent
}

// openSites makes all modes stand, at the same time: most of it is waiting.
// What stands is returned with an error too, to be closed.
func openSites(ctx context.Context, modes []Mode, o Options) ([]*site, error) {
	o.tell(Step{Text: fmt.Sprintf("setting up %d modes and proving the way of their packets", len(modes))})
	sites := make([]*site, len(modes))
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range modes {
		g.Go(func() (err error) {
			sites[i], err = openSite(ctx, m, o.Binary)
			return err
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(sites, func(s *site) bool { return s == nil }), err
}

func closeSites(sites []*site) error {
	var err error
	for _, s := range sites {
		err = errors.Join(err, s.close())
	}
	return err
}

func tallies(sites []*site) ([][]tally, error) {
	var all [][]tally
	for _, s := range sites {
		t, err := s.tally()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.mode.Name, err)
		}
		all = append(all, t)
	}
	return all, nil
}

// verifyAfter proves that the loads took the ways their modes are named for.
func verifyAfter(ctx context.Context, sites []*site, before [][]tally) error {
	after, err := tallies(sites)
	if err != nil {
		return err
	}
	for i, s := range sites {
		if err := errors.Join(s.verifyBypass(before[i], after[i]), s.verify(ctx)); err != nil {
			return fmt.Errorf("%s, after the last round: %w", s.mode.Name, err)
		}
	}
	return nil
}

func (o Options) tell(s Step) {
	if o.Progress != nil {
		o.Progress(s)
	}
}
