// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/test/lab"
)

// flanneld is an unmodified flanneld on a host.
type flanneld struct {
	host *lab.Host
	etcd string // client URL

	process *exec.Cmd
	ended   chan struct{}
}

var errEnded = errors.New("flanneld has ended")

// start runs flanneld and waits until it has its lease and its device and
// follows the others'. It takes the lab's subnet, as it takes that of any
// subnet.env it finds.
func (f *flanneld) start(t *testing.T, args ...string) {
	t.Helper()
	if err := f.tryStart(t, args...); err != nil {
		t.Fatalf("start flanneld on %s: %v\n%s", f.host.Name, err, f.lastLog(t))
	}
}

func (f *flanneld) tryStart(t *testing.T, args ...string) error {
	t.Helper()
	// flanneld leaves this to Docker or to who sets the machine up.
	run(t, f.host.NS, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	env := store.SubnetEnv{Network: lab.Network, Subnet: f.host.Subnet}
	if f.host.Subnet6.IsValid() {
		run(t, f.host.NS, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
		env.IPv6Network, env.IPv6Subnet = lab.Network6, f.host.Subnet6
	}
	if _, err := os.Stat(f.host.SubnetFile()); err != nil {
		noError(t, env.Write(f.host.SubnetFile()))
	}
	log, err := os.Create(f.logFile())
	noError(t, err)
	defer log.Close()
	// Not bound to the test's context: that ends before its clean-up.
	f.process = f.host.NS.Command(context.WithoutCancel(t.Context()), append([]string{flanneldPath,
		"--etcd-endpoints", f.etcd, "--iface", lab.Uplink, "--subnet-file", f.host.SubnetFile()}, args...)...)
	f.process.Stdout, f.process.Stderr = log, log
	noError(t, f.process.Start())
	f.ended = make(chan struct{})
	go func() {
		_ = f.process.Wait() // how it ends is in its log
		close(f.ended)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return lab.Until(ctx, "flanneld watches the leases", func() (bool, error) {
		select {
		case <-f.ended:
			return false, errEnded
		default:
			log := f.log(t)
			return bytes.Contains(log, []byte("watching subnets starting from")) && bytes.Contains(log, []byte("to renew lease")), nil
		}
	})
}

// stop asks it to end and waits for it. That it does not run is no error.
func (f *flanneld) stop(t *testing.T) { f.end(t, unix.SIGTERM) }

func (f *flanneld) kill(t *testing.T) { f.end(t, unix.SIGKILL) }

// patience is what flanneld is given to end: at times it never does, as when it
// is asked while it makes its watches (pkg/subnet/subnet.go, WatchLeases).
const patience = 2 * time.Second

func (f *flanneld) end(t *testing.T, sig unix.Signal) {
	t.Helper()
	if f.process == nil {
		return
	}
	_ = f.process.Process.Signal(sig) // it may have ended
	select {
	case <-f.ended:
	case <-time.After(patience):
		t.Logf("flanneld on %s does not end on %v, killed:\n%s", f.host.Name, sig, f.lastLog(t))
		_ = f.process.Process.Kill()
		<-f.ended
	}
	f.process = nil
}

func (f *flanneld) logFile() string { return filepath.Join(f.host.Dir, "flanneld.log") }

// lastLog is the end of its log, which is long.
func (f *flanneld) lastLog(t *testing.T) []byte {
	t.Helper()
	lines := bytes.SplitAfter(f.log(t), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], nil)
}

// log is what it has said since it was last started.
func (f *flanneld) log(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(f.logFile())
	noError(t, err)
	return data
}
