// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/nat"
	"github.com/bpfnet/bpfnet/maps"
)

// natEvery is how often is looked for who translates addresses: of nftables' rules
// the kernel tells, of others it does not.
const natEvery = 5 * time.Second

// natWatch tells the programs whether this node translates addresses.
type natWatch struct {
	*session
	mode      *maps.NAT
	conntrack bool // the programs can ask the kernel's conntrack
	finder    nat.Finder
}

// update looks who translates, and changes the mode accordingly.
func (w *natWatch) update() (before, now maps.NATMode, err error) {
	if before, err = w.mode.Get(); err != nil {
		return 0, 0, err
	}
	found, err := w.finder.Find(before)
	if found.Mode != before {
		if setErr := w.mode.Set(found.Mode); setErr != nil {
			return 0, 0, setErr
		}
		w.log.Info("changed which packets are left to the kernel for its NAT", "mode", found.Mode, "by", found.By)
	}
	w.reporter.report("nat", w.shortfall(found, err))
	return before, found.Mode, nil
}

// shortfall is what is not as fast as it could be.
func (w *natWatch) shortfall(found nat.Found, err error) error {
	switch {
	case !w.FastPath:
		return nil // nothing goes past it
	case err != nil:
		return fmt.Errorf("%w; taken as if this node translated addresses", err)
	case found.Mode == maps.NATOther:
		return fmt.Errorf("%s translates addresses, of which connections it cannot be asked: "+
			"packets between containers take the kernel's path (kube-proxy's modes iptables and nftables would leave them the fast one)", found.By)
	case found.Mode == maps.NATConntrack && !w.conntrack:
		return fmt.Errorf("%s translates addresses, and this kernel cannot be asked of which connections (needs 5.18 with BTF): "+
			"packets between containers take the kernel's path", found.By)
	}
	return nil
}

// run follows the rules until ctx ends. While somebody translates, more rules
// change nothing, and that they are gone has time.
func (w *natWatch) run(ctx context.Context) error {
	events := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return nat.Watch(ctx, func() {
			select {
			case events <- struct{}{}:
			default:
			}
		})
	})
	g.Go(func() error { return w.follow(ctx, events) })
	return g.Wait()
}

func (w *natWatch) follow(ctx context.Context, events <-chan struct{}) error {
	tick := time.NewTicker(natEvery)
	defer tick.Stop()
	for {
		before, now, err := w.update()
		switch {
		case err != nil:
			return err
		case before == maps.NATNone && now == maps.NATConntrack && !w.conntrack:
			return fmt.Errorf("%w: this node translates addresses now, and conntrack may be there to be asked", errRestart)
		}
		wake := events
		if now != maps.NATNone {
			wake = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}
