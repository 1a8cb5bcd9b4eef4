// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
)

const (
	readyTimeout = Patience * 20 * time.Second
	stopTimeout  = Patience * 10 * time.Second
	etcdPort     = 2379
)

// LogFile is where the host's daemon logs to.
func (h *Host) LogFile() string { return filepath.Join(h.Dir, "daemon.log") }

// SubnetFile is where the host's daemon writes its subnet.env.
func (h *Host) SubnetFile() string { return filepath.Join(h.Dir, "subnet.env") }

// NetworkConfig is flannel's network configuration, JSON, as the lab's first daemon puts it into etcd.
func (l *Lab) NetworkConfig() string {
	return fmt.Sprintf(`{%s,"Backend":{"Type":%q}}`, strings.Join(l.networks(), ","), l.Options.Backend)
}

func (l *Lab) networks() (fields []string) {
	if l.Options.Inner.v4() {
		fields = append(fields, fmt.Sprintf(`"Network":%q,"SubnetLen":%d`, Network, SubnetLen))
	} else {
		fields = append(fields, `"EnableIPv4":false`)
	}
	if l.Options.Inner.v6() {
		fields = append(fields, fmt.Sprintf(`"EnableIPv6":true,"IPv6Network":%q,"IPv6SubnetLen":%d`, Network6, SubnetLen6))
	}
	return fields
}

// Endpoints are etcd's client URLs.
func (l *Lab) Endpoints() string {
	if l.Options.Etcd != "" {
		return l.Options.Etcd
	}
	h := l.Hosts[0]
	addr := h.Addr
	if !addr.IsValid() {
		addr = h.Addr6
	}
	return "http://" + netip.AddrPortFrom(addr, etcdPort).String()
}

// pidPath holds the process last started.
func (h *Host) pidPath() string { return filepath.Join(h.Dir, "daemon.json") }

// StartDaemons starts the daemon of each host, in order, and waits until each is ready.
func (l *Lab) StartDaemons(ctx context.Context) error {
	for _, h := range l.Hosts {
		l.progress("daemon of %s: %s", h.Name, l.Options.Backend)
		if err := h.StartDaemon(ctx); err != nil {
			return err
		}
	}
	return nil
}

// daemonArgs are the arguments of a host's daemon. The first one embeds etcd,
// unless the lab was given another.
func (h *Host) daemonArgs() []string {
	args := []string{
		h.lab.Options.Binary, "daemon",
		"--run-dir", h.Dir,
		"--subnet-file", h.SubnetFile(),
		"--iface", Uplink,
		"--dataplane", string(h.lab.Options.Dataplane),
		"--etcd-init-config", h.lab.NetworkConfig(),
	}
	if h.Number == 1 && h.lab.Options.Etcd == "" {
		return append(args, "--etcd-embedded", filepath.Join(h.Dir, "etcd"))
	}
	return append(args, "--etcd-endpoints", h.lab.Endpoints())
}

// StartDaemon starts the host's daemon with more arguments than the lab's own,
// if need be, and waits until it has synchronised once. It outlives this process.
func (h *Host) StartDaemon(ctx context.Context, args ...string) error {
	if h.DaemonAlive() {
		return fmt.Errorf("start daemon on %s: it runs already", h.Name)
	}
	if err := h.preferSubnet(); err != nil {
		return err
	}
	log, err := os.OpenFile(h.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", h.Name, err)
	}
	defer log.Close() //nolint:errcheck // the daemon writes to it, not we
	// Not bound to ctx: its end is not the daemon's.
	cmd := h.NS.Command(context.WithoutCancel(ctx), append(h.daemonArgs(), args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ctrl-c is for who runs the lab
	if err = h.lab.start(cmd, cmd.Start); err != nil {
		return fmt.Errorf("start daemon on %s: %w", h.Name, err)
	}
	p, _, err := identify(cmd.Process.Pid)
	go cmd.Wait() //nolint:errcheck // only reaps it: its end shows in its pidfd
	if err != nil {
		return fmt.Errorf("start daemon on %s: %w", h.Name, err)
	}
	if err := h.recordDaemon(p); err != nil {
		return err
	}
	return h.waitReady(ctx, p)
}

// preferSubnet makes the daemon take the lab's subnet: flannel's rule is to
// take the one in subnet.env where it is free.
func (h *Host) preferSubnet() error {
	if _, err := os.Stat(h.SubnetFile()); err == nil {
		return nil
	}
	env := store.SubnetEnv{MTU: h.lab.Options.ContainerMTU()}
	if h.Subnet.IsValid() {
		env.Network, env.Subnet = Network, h.Subnet
	}
	if h.Subnet6.IsValid() {
		env.IPv6Network, env.IPv6Subnet = Network6, h.Subnet6
	}
	return env.Write(h.SubnetFile())
}

// StopDaemon asks the daemon to end (SIGTERM) and waits for it. That it does not run is no error.
func (h *Host) StopDaemon(ctx context.Context) error { return h.endDaemon(ctx, unix.SIGTERM) }

// KillDaemon kills the daemon (SIGKILL). That it does not run is no error.
func (h *Host) KillDaemon() error { return h.endDaemon(context.Background(), unix.SIGKILL) }

// killRecorded kills a daemon that an earlier build started: it is known by its record alone (see processesLock).
// Half a record is none.
func (h *Host) killRecorded() error {
	if _, err := h.daemon(); err != nil {
		return nil //nolint:nilerr // as said
	}
	return h.KillDaemon()
}

func (h *Host) endDaemon(ctx context.Context, sig unix.Signal) error {
	p, err := h.daemon()
	if err != nil || p == (process{}) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := p.end(ctx, sig); err != nil {
		return fmt.Errorf("end daemon on %s: %w", h.Name, err)
	}
	return os.Remove(h.pidPath())
}

// DaemonAlive reports whether the daemon's process runs.
func (h *Host) DaemonAlive() bool {
	p, err := h.daemon()
	return err == nil && p.alive()
}

// daemon is the process last started, the zero one if there is none.
func (h *Host) daemon() (p process, err error) {
	data, err := os.ReadFile(h.pidPath())
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("read daemon of %s: %w", h.Name, err)
	}
	return p, nil
}

func (h *Host) recordDaemon(p process) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("record daemon of %s: %w", h.Name, err)
	}
	if err := renameio.WriteFile(h.pidPath(), data, 0o644); err != nil {
		return fmt.Errorf("record daemon of %s: %w", h.Name, err)
	}
	return nil
}

// waitReady waits for the daemon's first synchronisation, or its early end.
func (h *Host) waitReady(ctx context.Context, p process) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := Until(ctx, "daemon on "+h.Name+" is ready", func() (bool, error) {
		if s, err := h.DaemonStatus(ctx); err == nil && s.Ready {
			return true, nil
		}
		if !p.alive() {
			return false, fmt.Errorf("daemon on %s ended before it was ready", h.Name)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, h.lastLog())
	}
	return nil
}

// lastLog is the last line of the daemon's log.
func (h *Host) lastLog() string {
	data, err := os.ReadFile(h.LogFile())
	if err != nil {
		return err.Error()
	}
	data = bytes.TrimSpace(data)
	return string(data[bytes.LastIndexByte(data, '\n')+1:])
}

// DaemonStatus asks the daemon for its status.
func (h *Host) DaemonStatus(ctx context.Context) (node.Status, error) {
	s, err := node.FetchStatus(ctx, h.Dir)
	if err != nil {
		return s, fmt.Errorf("status of %s: %w", h.Name, err)
	}
	return s, nil
}
