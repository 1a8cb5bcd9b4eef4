// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"
	"time"
)

// TestLimit: of the rounds there are as many as fit, and one however short the time is.
func TestLimit(t *testing.T) {
	p := &plan{Options: Options{Rounds: 3, Limit: 1}, began: time.Now()}
	r := &Report{}
	if err := p.run(t.Context(), r); err != nil || r.Machine.Rounds != 1 {
		t.Errorf("%d rounds where the time is over, error %v, want one", r.Machine.Rounds, err)
	}
	for _, test := range []struct {
		limit, standing, measuring time.Duration
		round                      int
		want                       bool
	}{
		{0, time.Hour, 2 * time.Hour, 2, true}, // no limit
		{100 * time.Second, 10 * time.Second, 30 * time.Second, 1, true},
		{100 * time.Second, 10 * time.Second, 50 * time.Second, 1, false},
		{100 * time.Second, 10 * time.Second, 50 * time.Second, 2, true},
		{100 * time.Second, 10 * time.Second, 62 * time.Second, 2, false},
	} {
		now := time.Now()
		p := &plan{Options: Options{Limit: test.limit}, began: now.Add(-test.standing - test.measuring), first: now.Add(-test.measuring)}
		if p.fits(test.round) != test.want {
			t.Errorf("%+v: fits is %v", test, !test.want)
		}
	}
}
