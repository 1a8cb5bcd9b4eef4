// SPDX-License-Identifier: Apache-2.0

// Package node is the daemon: it joins this node to the network that etcd
// describes and keeps the dataplane equal to it.
//
// A session is what holds for one network config, one uplink and one lease.
// When any of them changes the session ends and the next one adopts what is in
// the kernel, so that traffic never notices.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/maps"
)

// Datapath is what the daemon asks of the loaded programs.
type Datapath interface {
	// Maps by their names in bpf/include/maps.h.
	Maps() map[string]*ebpf.Map
	// Attach and Detach are idempotent; program is one of bpf's names.
	Attach(program string, ifindex int) error
	Detach(program string, ifindex int) error
	Attached(program string) ([]int, error)
	// ClearXDP takes from_wire off all interfaces but this one, and off it where
	// it runs in another mode than the settings say; 0: off all.
	ClearXDP(ifindex int) error
	// Publish makes the maps in use the ones others see. Called once everything is attached.
	Publish() error
	Close() error
}

// Options are the daemon's.
type Options struct {
	RunDir     string // control socket, lock
	SubnetFile string // subnet.env
	Etcd       store.Options
	Embedded   Embedded
	InitConfig string // network config to write where etcd has none; JSON
	Underlay   underlay.Options
	// RenewMargin is how long before its end the lease is renewed.
	RenewMargin time.Duration
	// FastPath off: containers' packets all take the kernel's path (FORWARD
	// chain, conntrack), only tunnelling is eBPF's.
	FastPath bool
	// UDP6ZeroChecksum has other nodes told that this one takes vxlan over IPv6 without a UDP checksum.
	UDP6ZeroChecksum bool
	Firewall         Firewall
	// Blackhole drops what is for an address of this node's subnet that nothing has.
	Blackhole bool
	// BridgeHeadroom has the containers' bridges ask their ports for headroom.
	BridgeHeadroom bool
	// Healthz is where GET /healthz is answered; nowhere where its port is 0.
	Healthz netip.AddrPort
	// Dataplane is the one to begin with.
	Dataplane Dataplane
	// XDP is what the ebpf dataplane is to have on the uplink.
	XDP xdp.Want
	// Open loads the datapath with these settings.
	Open func(bpf.DatapathSettings) (Datapath, error)
	// Unload takes the programs that an earlier dataplane left off their
	// interfaces, in an order that loses no packet where the kernel's own devices
	// stand by, and their maps away. None there is no error.
	Unload func() error
	// AdoptPinned opens the maps an earlier daemon left, without the programs;
	// the error is maps.ErrNoDatapath where there are none.
	AdoptPinned func() (*maps.Set, error)
	Logger      *slog.Logger
}

// Embedded is the etcd this daemon serves itself; none where Dir is empty.
type Embedded struct {
	Dir    string
	Listen []string // client URLs; the uplink's address and loopback where empty
}

// LockName is the lock's name in the run directory.
const LockName = "lock"

// ErrAlreadyRunning is the error of a second daemon on one run directory.
var ErrAlreadyRunning = errors.New("another daemon holds this run directory: stop it, or choose another --run-dir")

// retryEvery is the pause before what failed is tried again.
const retryEvery = time.Second

// restartPause lets a burst of changes become one session's.
const restartPause = 100 * time.Millisecond

// resyncEvery is how often everything is compared again though nothing was
// heard of: others may remove what is ours from the kernel.
const resyncEvery = time.Minute

// resyncRest is for how many times as long as that took it is not done again: in
// a cluster of 100,000 nodes it takes seconds.
const resyncRest = 100

// Run serves until ctx ends, and leaves the datapath in place then. It returns
// early only for what no retry can mend.
func Run(ctx context.Context, o Options) (err error) {
	unlock, err := Lock(o.RunDir)
	if err != nil {
		return err
	}
	defer unlock()
	n := &node{Options: o, log: o.Logger, reporter: newReporter(o.Logger), choice: newChoice(o.Dataplane)}
	n.status.now.Dataplane = o.Dataplane
	control, err := n.listen()
	if err != nil {
		return err
	}
	defer control.close()
	healthz, err := n.listenHealthz()
	if err != nil {
		return err
	}
	defer healthz.close()
	defer func() { err = errors.Join(err, n.stopEtcd()) }()
	defer n.endCare()
	defer n.endTunnel()
	for {
		err = n.session(ctx)
		switch {
		case ctx.Err() != nil:
			n.log.Info(n.farewell())
			return nil
		case errors.Is(err, errRestart):
			n.log.Info(err.Error())
			sleep(ctx, restartPause)
		case n.choice.done(err):
			n.log.Warn("the dataplane stays as it is", "error", err)
		default:
			n.reporter.report("session", err)
			n.status.fail()
			if !sleep(ctx, retryEvery) {
				return nil
			}
		}
	}
}

// farewell says what becomes of the traffic without this process.
func (n *node) farewell() string {
	if n.tunnel != nil {
		return "stopped, and with it the copying of packets: the containers of other nodes are out of reach until a daemon runs again"
	}
	return "stopped; the datapath stays in place (remove it with bpfnet cleanup)"
}

type node struct {
	Options
	log       *slog.Logger
	reporter  *reporter
	status    status
	etcd      *embeddedEtcd
	had       store.Lease // of the last session
	keep6     netip.Addr  // likewise this node's IPv6 address
	caretaker *caretaker  // while there is no session that follows the containers itself
	tunnel    *tunnel     // of a udp network in the netlink dataplane
	choice    *choice
}

// errRestart ends a session because the ground it stood on has changed.
var errRestart = errors.New("adopting a change")

// Lock takes the run directory for this process, for as long as it lives.
func Lock(runDir string) (unlock func(), err error) {
	if err = os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(runDir, LockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", runDir, ErrAlreadyRunning)
		}
		return nil, fmt.Errorf("lock %s: %w", runDir, err)
	}
	return func() { _ = f.Close() }, nil
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
