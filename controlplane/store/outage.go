// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// outage counts the parts of a Store that have to do without etcd. The first
// to lose it and the last to have it back are logged and told, and nothing in between.
type outage struct {
	log  *slog.Logger
	tell func(error) // nil where it is over

	mu    sync.Mutex
	count int
	since time.Time
	cause error
}

func (o *outage) begin(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count++; o.count == 1 {
		o.since, o.cause = time.Now(), reason(err)
		text := state(err) + "; what it said last stays in force"
		o.log.Warn(text, "err", o.cause)
		o.tell(fmt.Errorf("%s: %w", text, o.cause))
	}
}

// state says what is wrong with etcd, and what to do where it is more than to wait.
func state(err error) string {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return "etcd is out of space and takes no writes: compact and defragment it, then etcdctl alarm disarm"
	}
	return "etcd is out of reach"
}

// explain adds to the end of a context why nothing was done before it.
func (o *outage) explain(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, o.cause)
}

func (o *outage) end(recovered bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count--; o.count > 0 {
		return
	}
	o.tell(nil)
	if recovered {
		o.log.Info("etcd is back", "after", time.Since(o.since).Round(time.Millisecond))
	}
}

// user is one part of a Store; a single goroutine uses it.
type user struct {
	outage  *outage
	without bool
}

func (u *user) fail(err error) {
	if !u.without {
		u.without = true
		u.outage.begin(err)
	}
}

func (u *user) succeed() { u.settle(true) }
func (u *user) leave()   { u.settle(false) }

func (u *user) settle(recovered bool) {
	if u.without {
		u.without = false
		u.outage.end(recovered)
	}
}

// retry calls f until it succeeds, ctx ends or f fails for a reason that will
// not pass. An f that works for long calls ok whenever etcd has answered it.
func (s *Store) retry(ctx context.Context, f func(ctx context.Context, ok func()) error) error {
	u := user{outage: s.outage}
	defer u.leave()
	wait := retryMin
	ok := func() {
		u.succeed()
		wait = retryMin
	}
	for {
		back := s.ready.wait()
		err := f(ctx, ok)
		switch {
		case err == nil:
			ok()
			return nil
		case errors.As(err, new(callbackError)):
			return err
		case ctx.Err() != nil:
			return s.outage.explain(ctx.Err())
		case s.ctx.Err() != nil:
			return errClosed
		case !transient(err):
			return err
		}
		if !errors.Is(err, rpctypes.ErrCompacted) { // which only outdates what was being listed
			u.fail(err)
		}
		select {
		case <-ctx.Done():
			return s.outage.explain(ctx.Err())
		case <-s.ctx.Done():
			return errClosed
		case <-back:
		case <-time.After(wait/2 + rand.N(wait/2)):
			wait = min(2*wait, retryMax)
		}
	}
}

var (
	errClosed = errors.New("the store was closed")
	// errWatchClosed stands for a watch that ended without saying why.
	errWatchClosed = errors.New("watch ended")
)

// callbackError marks the error of a function that a caller gave us, so that
// it is returned whatever it is.
type callbackError struct{ error }

func (e callbackError) Unwrap() error { return e.error }

// transient reports whether err is etcd's and may pass by itself. Of what etcd
// answers, the rest is a wrong user, password or permission.
func transient(err error) bool {
	var etcd rpctypes.EtcdError
	switch {
	case errors.Is(err, errWatchClosed), errors.Is(err, rpctypes.ErrAuthOldRevision):
		return true
	case errors.As(err, &etcd):
		return etcd.Code() != codes.InvalidArgument && etcd.Code() != codes.PermissionDenied
	}
	st, ok := status.FromError(err)
	return ok && st.Code() != codes.Canceled
}

// reason takes off err what gRPC puts around the words that matter.
func reason(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		return errors.New(st.Message())
	}
	return err
}

// monitor follows the state of the connection, for a watch does not say that
// its server is gone: it waits in silence for the next one.
func (s *Store) monitor(ctx context.Context) {
	conn := s.cli.ActiveConnection()
	health := grpc_health_v1.NewHealthClient(conn)
	u := user{outage: s.outage}
	defer u.leave()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			u.succeed()
			s.ready.fire()
		case connectivity.TransientFailure:
			// The connection does not tell why it failed; a request on it does.
			_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			if ctx.Err() == nil && transient(err) {
				u.fail(err)
			}
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// signal wakes all who wait for it at a time.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that the next fire closes.
func (g *signal) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch == nil {
		g.ch = make(chan struct{})
	}
	return g.ch
}

func (g *signal) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch != nil {
		close(g.ch)
		g.ch = nil
	}
}
