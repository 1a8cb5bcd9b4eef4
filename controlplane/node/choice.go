// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// choice is the dataplane that sessions are opened with, which people may
// change while the daemon runs.
type choice struct {
	mu     sync.Mutex
	now    Dataplane
	before Dataplane     // to go back to where now cannot be had
	asked  chan struct{} // holds a token for the session to end by
	result chan error    // of the change under way; nil where there is none
}

func newChoice(d Dataplane) *choice { return &choice{now: d, asked: make(chan struct{}, 1)} }

func (c *choice) get() Dataplane {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// set changes the dataplane and returns when the change is made, or could not
// be and everything is as before.
func (c *choice) set(ctx context.Context, d Dataplane) error {
	result, err := c.ask(d)
	if err != nil || result == nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *choice) ask(d Dataplane) (<-chan error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.result != nil:
		return nil, fmt.Errorf("a change to %s is under way: wait for it", c.now)
	case c.now == d:
		return nil, nil
	}
	c.before, c.now = c.now, d
	c.result = make(chan error, 1)
	select {
	case c.asked <- struct{}{}:
	default: // one is left that no session has taken
	}
	return c.result, nil
}

// pending reports whether a change is under way.
func (c *choice) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.result != nil
}

// done ends a change under way: nil, it is made; else it goes back. It reports
// whether it went back.
func (c *choice) done(err error) (back bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.result == nil {
		return false
	}
	if err != nil {
		err = fmt.Errorf("change to %s, going on with %s: %w", c.now, c.before, err)
		c.now = c.before
	}
	c.result <- err
	c.result = nil
	return err != nil
}

// watch ends a session when another dataplane than its own is asked for.
func (c *choice) watch(ctx context.Context, own Dataplane) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.asked:
			if d := c.get(); d != own { // else the session before was told, but ended by itself
				return fmt.Errorf("%w: the dataplane is to be %s", errRestart, d)
			}
		}
	}
}

// serveDataplane changes the dataplane to the one named by the path's last part.
func (n *node) serveDataplane(w http.ResponseWriter, r *http.Request) {
	d, err := ParseDataplane(r.PathValue("name"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	err = n.choice.set(r.Context(), d)
	switch {
	case errors.Is(err, context.Canceled): // the asker went away
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
