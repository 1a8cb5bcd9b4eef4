// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// loop collects what changes and applies it, one pass for all that has come
// since the last.
type loop struct {
	*session
	wake   chan struct{} // holds one token while there is something to apply
	over   chan error    // why the session has to end
	synced chan struct{} // closed once the first full sync is applied and in place

	mu       sync.Mutex
	bad      map[string]error
	revision int64
	full     bool // the first snapshot has come
	moved    bool // the underlay changed: look again at what was learned of it

	// Of run alone:
	paths    map[netip.Addr]topology.Path
	stranded bool             // the uplink is down
	states   []topology.State // built last, one a family
	peers    []topology.Peer  // of them all
	problems []topology.Problem
}

func newLoop(s *session) *loop {
	return &loop{
		session: s,
		wake:    make(chan struct{}, 1),
		over:    make(chan error, 1),
		synced:  make(chan struct{}),
		bad:     map[string]error{},
		paths:   map[netip.Addr]topology.Path{},
	}
}

func (l *loop) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// update takes over what etcd says.
func (l *loop) update(u store.Update) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u.Full {
		l.clearLeases()
		clear(l.bad)
		l.full = true
	}
	for _, key := range u.Deleted {
		for _, f := range l.families {
			f.leases.remove(key)
		}
		delete(l.bad, key)
	}
	for _, lease := range u.Put {
		delete(l.bad, lease.Key)
		for _, f := range l.families {
			f.leases.put(topologyLease(lease, f.is6()))
		}
	}
	for key, err := range u.Bad {
		// What the key said before is not thrown away for what cannot be read.
		l.bad[key] = err
	}
	l.revision = u.Revision
	l.kick()
	return nil
}

func (l *loop) clearLeases() {
	for _, f := range l.families {
		f.leases.clear()
	}
}

func (l *loop) underlayChanged() {
	l.mu.Lock()
	l.moved = true
	l.mu.Unlock()
	l.kick()
}

// leaseEvent says what became of this node's own lease.
func (l *loop) leaseEvent(e store.Event) {
	l.reporter.report("lease", e.Err)
	switch e.Kind {
	case store.Recreated:
		l.log.Warn("the node's lease was gone from etcd and has been put back", "lease", e.Lease.Key)
	case store.Renewed:
		l.log.Debug("lease renewed", "lease", e.Lease.Key)
	case store.Reserved:
		l.log.Info("the node's lease has been reserved: it needs no renewing", "lease", e.Lease.Key)
	case store.Limited:
		l.log.Info("the node's lease is reserved no longer: it is renewed from now on", "lease", e.Lease.Key)
	}
}

// configChanged ends the session for a config that is good and new; nil is none.
func (l *loop) configChanged(raw []byte) {
	if raw == nil {
		l.reporter.report("config",
			errors.New("the network config was removed from etcd; the last one is served until there is another"))
		return
	}
	cfg, err := store.ParseConfig(raw)
	if err != nil {
		l.reporter.report("config", fmt.Errorf("%w; the network is served as before until it is mended", err))
		return
	}
	l.reporter.report("config", nil)
	if cfg == l.config {
		return
	}
	select {
	case l.over <- fmt.Errorf("%w: the network config in etcd is another", errRestart):
	default: // it ends already
	}
}

// run applies until ctx ends. What fails is tried again.
func (l *loop) run(ctx context.Context) error {
	resync := time.NewTimer(l.resync)
	defer resync.Stop()
	sweep := time.NewTimer(sweepAfter)
	defer sweep.Stop()
	var retry <-chan time.Time
	for {
		doubted := false
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.over:
			return err
		case <-l.nothingNew():
			if err := l.advance(); err != nil {
				retry = time.After(retryEvery)
			}
			continue
		case <-sweep.C:
			if l.sweep() != nil {
				sweep.Reset(retryEvery)
			}
			continue
		case <-l.wake:
		case <-resync.C:
			doubted = true
			l.doubt()
		case <-retry:
			l.doubt()
		}
		began := time.Now()
		failed, err := l.pass(retry != nil)
		if err != nil {
			return err
		}
		if retry = nil; failed {
			retry = time.After(retryEvery)
		}
		if doubted {
			_ = l.sweep() // it is told, and tried again
			resync.Reset(max(l.resync, resyncRest*time.Since(began)))
		}
		sweep.Reset(sweepAfter)
	}
}

// sweepAfter is how long nothing has changed when the dataplane may be kept from applying for a
// moment. Where it never is as long, that is done with the look at everything.
const sweepAfter = time.Second

func (l *loop) sweep() error {
	err := l.dataplane.sweep()
	l.reporter.report("dataplane sweep", err)
	return err
}

// nothingNew lets the loop go on with what it has begun, unless there is something
// to apply first.
func (l *loop) nothingNew() <-chan struct{} {
	if l.unwritten == 0 || l.stranded || len(l.wake) > 0 {
		return nil
	}
	return closed
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// pass looks at what has changed and applies it. failed says that it has to be
// tried again, as it had before where there is nothing to apply to.
func (l *loop) pass(before bool) (failed bool, err error) {
	if err = l.checkUplink(); err != nil {
		return false, err
	}
	inputs, ready := l.inputs()
	if !ready || l.stranded {
		return before, nil
	}
	err = l.apply(inputs)
	if err != nil && l.choice.pending() && !l.dataplane.inPlace() {
		return false, err // the dataplane before is still there to go back to
	}
	return err != nil, nil
}

// doubt has everything looked at again, for others may have removed what is ours.
func (l *loop) doubt() {
	l.mu.Lock()
	l.moved = true
	l.mu.Unlock()
	l.dataplane.doubt()
}

// checkUplink ends the session where the node's place on the underlay is
// another now. While the uplink is down nothing is touched, for nothing else is
// wrong, and all has to be as it was when it is up again.
func (l *loop) checkUplink() error {
	l.mu.Lock()
	moved := l.moved
	l.moved = false
	l.mu.Unlock()
	if !moved {
		return nil
	}
	clear(l.paths)
	for _, f := range l.families {
		f.follower.Doubt()
	}
	l.dataplane.doubtKernel()
	now, err := l.findUplink()
	if err == nil && now != l.uplink {
		return fmt.Errorf("%w: the uplink was %s, is %s", errRestart, l.uplink, now)
	}
	lost, down := l.uplink.Check()
	l.strand(lost, down)
	l.reporter.report("uplink", cmp.Or(down, err)) // the first is the second's cause
	if l.stranded {
		return nil
	}
	// The kernel takes a vxlan device away together with its uplink.
	changed, err := l.ensureOverlays()
	l.reporter.report("overlay", err)
	if changed {
		return fmt.Errorf("%w: the overlay device had to be made anew", errRestart)
	}
	return nil
}

// strand takes over what is wrong with the uplink: the families that have lost
// their address stay as they are, and where that is all of them nothing is touched.
func (l *loop) strand(lost []netip.Addr, down error) {
	l.stranded = down != nil
	for _, f := range l.families {
		f.lost = slices.ContainsFunc(f.addrs(), func(a netip.Addr) bool { return slices.Contains(lost, a) })
		if len(lost) > 0 && !f.lost {
			l.stranded = false
		}
	}
}

// apply brings the dataplane to what etcd says.
func (l *loop) apply(inputs []topology.Input) error {
	if err := l.build(inputs); err != nil {
		return err
	}
	problems, err := l.dataplane.apply(l.states)
	l.reporter.reportRecords("etcd", append(l.badRecords(), l.problems...))
	return l.applied(problems, err)
}

// advance brings what the dataplane has left for later on by a step.
func (l *loop) advance() error { return l.applied(l.dataplane.advance(l.states)) }

// applied tells what has become of the states.
func (l *loop) applied(problems []topology.Problem, err error) error {
	l.publishStatus()
	fileErr := l.announce()
	l.reporter.reportRecords("kernel", problems)
	l.reporter.report("dataplane", err)
	l.reporter.report("subnet file", fileErr)
	return errors.Join(err, fileErr)
}

// announce tells others the subnet, and then the containers' side that the
// network is served, which it is without the file too.
func (l *loop) announce() error {
	if !l.dataplane.inPlace() {
		return nil
	}
	own := l.held.Lease()
	env := store.SubnetEnv{
		Network: l.config.Network, Subnet: own.Subnet, IPv6Network: l.config.IPv6Network, IPv6Subnet: own.Subnet6,
		MTU: l.mtu(), IPMasq: l.Firewall.Masquerade,
	}
	err := env.Write(l.SubnetFile)
	if !l.isSynced() {
		close(l.synced)
	}
	return err
}

func (l *loop) isSynced() bool {
	select {
	case <-l.synced:
		return true
	default:
		return false
	}
}

// serve has the dataplane do its own work once the network is served.
func (l *loop) serve(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.synced:
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.dataplane.serve(ctx) })
	for _, at := range l.uplink.Addrs() {
		if l.kind == EBPF { // else the kernel's devices do it themselves
			g.Go(func() error { l.listenTunnel(ctx, at); return nil })
		}
	}
	return g.Wait()
}

func (l *loop) publishStatus() {
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	l.status.update(func(now *Status) {
		now.Lease = l.held.Lease().Key
		now.Node, now.Subnet, now.Network = l.uplink.Addr, l.held.Lease().Subnet, l.config.Network
		now.Node6, now.Subnet6, now.Network6 = l.uplink.Addr6, l.held.Lease().Subnet6, l.config.IPv6Network
		now.Backend, now.MTU, now.Revision = string(l.encap()), l.mtu(), revision
		if l.dataplane.inPlace() {
			now.Dataplane = l.kind
		}
		now.KernelView = nil
		if l.unwritten > 0 {
			now.KernelView = &KernelView{Written: len(l.peers) - l.unwritten, Peers: len(l.peers)}
		}
	})
	l.status.setPeers(l.peers)
}
