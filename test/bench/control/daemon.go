// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/test/lab"
)

const (
	syncTimeout = 10 * time.Minute
	stopTimeout = 30 * time.Second
	spare       = 1000 // map entries beside the cluster's
)

// daemon is the daemon under test.
type daemon struct {
	host *lab.Host
	cmd  *exec.Cmd
	log  bytes.Buffer

	ended chan struct{} // closed when the process has
	err   error         // then: how
}

// startDaemon starts a daemon and returns when it serves that many peers and the
// kernel's own tables do too, with the times that both took.
func startDaemon(ctx context.Context, l *lab.Lab, binary string, peers, room int) (d *daemon, took, complete time.Duration, err error) {
	h := l.Hosts[0]
	entries := strconv.Itoa(room + spare)
	d = &daemon{host: h, ended: make(chan struct{}), cmd: exec.Command(binary, "daemon",
		"--run-dir", h.Dir, "--subnet-file", h.SubnetFile(), "--iface", lab.Uplink, "--etcd-endpoints", etcdURL,
		"--max-hosts", entries, "--max-neighbours", entries)}
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ctrl-c is for who measures
	began := time.Now()
	if err = l.Start(h.NS, d.cmd); err != nil {
		return nil, 0, 0, fmt.Errorf("start daemon: %w", err)
	}
	go d.wait()
	if took, err = d.until(ctx, began, "first synchronisation", func(b node.Brief) bool { return b.Ready && b.Peers == peers }); err != nil {
		return nil, 0, 0, d.failed(err)
	}
	if complete, err = d.until(ctx, began, "kernel view", func(b node.Brief) bool { return b.KernelView == peers }); err != nil {
		return nil, 0, 0, d.failed(err)
	}
	return d, took, complete, nil
}

func (d *daemon) wait() {
	d.err = d.cmd.Wait()
	close(d.ended)
}

// until waits until the daemon says of itself what it should, and tells how long that took.
func (d *daemon) until(ctx context.Context, began time.Time, what string, done func(node.Brief) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	for {
		now, err := node.FetchBrief(ctx, d.host.Dir)
		if err == nil && done(now) {
			return time.Since(began), nil
		}
		select {
		case <-d.ended:
			return 0, errors.New("the daemon ended before it served")
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for the daemon's %s (%+v): %w", what, now, ctx.Err())
		case <-time.After(max(firstLook, time.Since(began)/lookShare)):
		}
	}
}

// failed gives the daemon up, and adds to err what it said last.
func (d *daemon) failed(err error) error {
	err = errors.Join(err, d.stop()) // then its log is complete
	lines := bytes.Split(bytes.TrimSpace(d.log.Bytes()), []byte("\n"))
	last := lines[max(0, len(lines)-3):]
	return fmt.Errorf("%w; it said: %s", err, bytes.Join(last, []byte("; ")))
}

// stop ends the daemon and tells whether it had to be forced, or ended in an error.
func (d *daemon) stop() error {
	kill := time.AfterFunc(stopTimeout, func() { _ = d.cmd.Process.Kill() })
	defer kill.Stop()
	err := d.cmd.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-d.ended
	if d.err != nil {
		err = errors.Join(err, fmt.Errorf("stop daemon: %w", d.err))
	}
	return err
}

// memory is the daemon's resident set, now and at most, in bytes.
func (d *daemon) memory() (rss, peak uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read the daemon's memory: %w", err)
	}
	if rss, err = statusBytes(b, "VmRSS:"); err != nil {
		return 0, 0, err
	}
	peak, err = statusBytes(b, "VmHWM:")
	return rss, peak, err
}

// statusBytes reads a size from /proc/PID/status (proc_pid_status(5)).
func statusBytes(status []byte, field string) (uint64, error) {
	for line := range bytes.Lines(status) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == field && string(f[2]) == "kB" {
			kb, err := strconv.ParseUint(string(f[1]), 10, 54)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("malformed /proc/PID/status: no %s", field)
}

// cpu is the CPU time that the daemon has spent.
func (d *daemon) cpu() (time.Duration, error) {
	// The clock of another process's CPU time, as clock_getcpuclockid(3) names it.
	clock := ^int32(d.cmd.Process.Pid)<<3 | 2
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read the daemon's CPU time: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// mapMemory is what the kernel holds for the datapath's maps, bytes.
func mapMemory(h *lab.Host) (sum uint64, err error) {
	dir, err := loader.PinDir(h.Dir)
	if err != nil {
		return 0, err
	}
	pins, err := filepath.Glob(filepath.Join(dir, "maps", "*"))
	if err != nil {
		return 0, err
	}
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			return 0, fmt.Errorf("open map %s: %w", pin, err)
		}
		info, err := m.Info()
		if err == nil {
			if n, ok := info.Memlock(); ok {
				sum += n
			}
		}
		if err = errors.Join(err, m.Close()); err != nil {
			return 0, fmt.Errorf("read size of map %s: %w", pin, err)
		}
	}
	return sum, nil
}
