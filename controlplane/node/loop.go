// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
)

// loop collects what changes and applies it, one pass for all that has come
// since the last.
type loop struct {
	*session
	wake   chan struct{} // holds one token while there is something to apply
	over   chan error    // why the session has to end
	synced chan struct{} // closed once the first full sync is applied and in place

	mu       sync.Mutex
	leases   leases
	bad      map[string]error
	revision int64
	full     bool // the first snapshot has come
	moved    bool // the underlay changed: look again at what was learned of it

	// Of run alone:
	paths    map[netip.Addr]topology.Path
	stranded bool // the uplink is down
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
		l.leases.clear()
		clear(l.bad)
		l.full = true
	}
	for _, key := range u.Deleted {
		l.leases.remove(key)
		delete(l.bad, key)
	}
	for _, lease := range u.Put {
		delete(l.bad, lease.Key)
		l.leases.put(topologyLease(lease))
	}
	for key, err := range u.Bad {
		// What the key said before is not thrown away for what cannot be read.
		l.bad[key] = err
	}
	l.revision = u.Revision
	l.kick()
	return nil
}

func topologyLease(s store.Lease) topology.Lease {
	return topology.Lease{
		Key: s.Key, Subnet: s.Subnet, Node: s.PublicIP, Encap: s.Backend, MAC: s.MAC, VNI: s.VNI,
		Created: s.CreateRevision, Modified: s.ModRevision,
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
	resync := time.NewTicker(l.resync)
	defer resync.Stop()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.over:
			return err
		case <-l.wake:
		case <-resync.C:
			l.doubt()
		case <-retry:
			l.doubt()
		}
		if err := l.checkUplink(); err != nil {
			return err
		}
		in, ready := l.input()
		if !ready || l.stranded {
			continue
		}
		retry = nil
		if err := l.apply(in); err != nil {
			if l.choice.pending() && !l.dataplane.inPlace() {
				return err // the dataplane before is still there to go back to
			}
			retry = time.After(retryEvery)
		}
	}
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
	l.dataplane.doubtKernel()
	now, err := underlay.Find(l.Underlay)
	if err == nil && now != l.uplink {
		return fmt.Errorf("%w: the uplink was %s, is %s", errRestart, l.uplink, now)
	}
	down := l.uplink.Check()
	l.stranded = down != nil
	l.reporter.report("uplink", cmp.Or(down, err)) // the first is the second's cause
	if l.stranded {
		return nil
	}
	// The kernel takes a vxlan device away together with its uplink.
	overlay, err := netlink.EnsureOverlay(l.self, l.kind.carrier())
	l.reporter.report("overlay", err)
	if err == nil && overlay != l.overlay {
		return fmt.Errorf("%w: the overlay device had to be made anew", errRestart)
	}
	return nil
}

// input is what is known, and whether that is everything yet.
func (l *loop) input() (topology.Input, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := topology.Input{
		Network: l.config.Network, Self: l.self, SelfKey: l.held.Lease().Key, Public: []netip.Addr{l.uplink.PublicIP},
		DirectRouting: l.config.Backend.DirectRouting,
		Leases:        l.leases.all(),
	}
	return in, l.full
}

// pathVia is r.PathTo, asked once a node until the underlay changes.
func (l *loop) pathVia(r *underlay.Resolver) func(netip.Addr) (topology.Path, error) {
	return func(node netip.Addr) (topology.Path, error) {
		if p, ok := l.paths[node]; ok {
			return p, nil
		}
		p, err := r.PathTo(node)
		if err == nil {
			l.paths[node] = p
		}
		return p, err
	}
}

// apply brings the dataplane to what etcd says.
func (l *loop) apply(in topology.Input) error {
	r, err := underlay.NewResolver()
	if err != nil {
		return err
	}
	defer r.Close()
	in.Path = l.pathVia(r)
	state, problems := topology.Build(in)
	kernelProblems, err := l.dataplane.apply(state)
	l.publishStatus(state)
	fileErr := l.announce()
	l.reporter.reportRecords("etcd", append(l.badRecords(), problems...))
	l.reporter.reportRecords("kernel", kernelProblems)
	l.reporter.report("dataplane", err)
	l.reporter.report("subnet file", fileErr)
	return errors.Join(err, fileErr)
}

func (l *loop) badRecords() []topology.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []topology.Problem
	for key, err := range l.bad {
		consequence := "not served: delete it, or restart the node that wrote it"
		if l.leases.has(key) {
			consequence = "what it said before is served: restart the node that wrote it"
		}
		all = append(all, topology.Problem{Key: key, Text: err.Error() + "; " + consequence})
	}
	return all
}

// announce tells others the subnet, and then the containers' side that the
// network is served, which it is without the file too.
func (l *loop) announce() error {
	if !l.dataplane.inPlace() {
		return nil
	}
	env := store.SubnetEnv{
		Network: l.config.Network, Subnet: l.self.Subnet, MTU: l.self.MTU, IPMasq: l.Firewall.Masquerade,
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
	g.Go(func() error { l.listenTunnel(ctx); return nil })
	return g.Wait()
}

func (l *loop) publishStatus(state topology.State) {
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	l.status.update(func(now *Status) {
		now.Lease = l.held.Lease().Key
		now.Node, now.Subnet, now.Network = l.self.Node, l.self.Subnet, l.config.Network
		now.Backend, now.MTU, now.Revision = string(l.self.Encap), l.self.MTU, revision
		if l.dataplane.inPlace() {
			now.Dataplane = l.kind
		}
	})
	l.status.setPeers(state.Peers)
}
