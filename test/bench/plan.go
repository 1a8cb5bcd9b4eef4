// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// plan is which loads to run on which ways, how often.
type plan struct {
	Options
	began   time.Time
	ways    []way
	prepare func(way int, l Load) (undo func() error, err error) // before a load is run on a way

	first time.Time // when the first measurement began
	done  int
	steal time.Duration
}

// run measures all, round by round, and fills the report.
func (p *plan) run(ctx context.Context, r *Report) error {
	r.Machine.Duration = p.Duration.Seconds()
	p.first = time.Now()
	all := samples{}
	for round := range p.Rounds {
		if !p.fits(round) {
			break
		}
		for _, l := range p.Loads {
			if err := p.runLoad(ctx, round, l, all); err != nil {
				return err
			}
		}
		others, err := background(ctx)
		if err != nil {
			return err
		}
		r.Machine.Background = max(r.Machine.Background, others)
		r.Machine.Rounds++
	}
	var names []string
	for _, w := range p.ways {
		names = append(names, w.mode)
	}
	r.Results = all.results(names, p.Loads)
	r.Tax = taxes(r.Results)
	measured := p.Duration.Seconds() * float64(p.done*r.Machine.CPUs)
	r.Machine.Steal = p.steal.Seconds() / measured
	return nil
}

// fits tells whether a round ends within the limit, should it take as long as those before it.
func (p *plan) fits(round int) bool {
	if p.Limit == 0 || round == 0 {
		return true
	}
	return time.Since(p.began)+time.Since(p.first)/time.Duration(round) <= p.Limit
}

// runLoad measures a load on all ways, one after another; every other round the
// other way round, so that none always follows the same.
func (p *plan) runLoad(ctx context.Context, round int, l Load, all samples) error {
	for i := range p.ways {
		if round%2 == 1 {
			i = len(p.ways) - 1 - i
		}
		w := p.ways[i]
		p.tell(p.step(fmt.Sprintf("round %d of %d: %s, %s", round+1, p.Rounds, l.Name, w.mode)))
		s, err := p.measure(ctx, i, l)
		if err != nil {
			return err
		}
		at := cell{w.mode, l.Name}
		all[at] = append(all[at], s)
		p.done++
	}
	return nil
}

func (p *plan) measure(ctx context.Context, i int, l Load) (sample, error) {
	undo, err := p.prepare(i, l)
	if err != nil {
		return sample{}, fmt.Errorf("prepare %s in mode %s: %w", l.Name, p.ways[i].mode, err)
	}
	s, steal, err := p.ways[i].measure(ctx, l, p.Duration)
	p.steal += steal
	return s, errors.Join(err, undo())
}

// overhead is what a measurement takes beside its duration, to begin with a guess.
const overhead = 50 * time.Millisecond

func (p *plan) step(text string) Step {
	total := p.Rounds * len(p.Loads) * len(p.ways)
	each := p.Duration + warmUp(p.Duration) + overhead
	if p.done > 0 {
		each = time.Since(p.first) / time.Duration(p.done)
	}
	return Step{Text: text, Done: p.done, Total: total, Left: each * time.Duration(total-p.done)}
}
