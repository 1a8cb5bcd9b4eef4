// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestStartRefused starts a second daemon on h1 where none can run: it ends with
// one line, and the first one and its traffic do not notice.
//
//	h1/c1 172.245.0.2      h2/c1 172.246.0.2
//	   h1 .245                h2 .246
//	     └──── 192.168.32.0/24 ───┘
//	etcd in h1's first daemon
func TestStartRefused(t *testing.T) {
	l := serve(t, func(o *lab.Options) { o.Containers = 1 })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	file := filepath.Join(h1.Dir, "file")
	noError(t, os.WriteFile(file, nil, 0o600))
	newDir := filepath.Join(t.TempDir(), "run")
	const permission = "no permission to load eBPF programs: run as root, " +
		"or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN (for the bpffs)"
	tests := []struct {
		name   string
		runDir string
		drop   []uintptr // capabilities
		want   string
	}{
		{"run directory in use", h1.Dir, nil,
			"lock " + h1.Dir + ": another daemon holds this run directory: stop it, or choose another --run-dir"},
		{"run directory is a file", file, nil, "create run directory: mkdir " + file + ": not a directory"},
		{"no CAP_BPF", newDir, []uintptr{unix.CAP_BPF, unix.CAP_SYS_ADMIN}, permission},
		{"no CAP_NET_ADMIN", newDir, []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}, permission},
		{"no bpffs and none to be mounted", newDir, []uintptr{unix.CAP_SYS_ADMIN},
			"mount bpffs for pins (needs CAP_SYS_ADMIN, or mount one there yourself): mount " + newDir + "/bpf: operation not permitted"},
	}
	there := startFlow(t, h1.Containers[0], h2.Containers[0], 10*time.Millisecond)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), bpfnetBinary, "--run-dir", test.runDir, "daemon", "--iface", lab.Uplink)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := h1.NS.Do(func() error {
				var err error
				for _, c := range test.drop {
					err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)) // of this thread alone
				}
				return errors.Join(err, cmd.Run())
			})
			equal(t, "output", "bpfnet: "+test.want+"\n", out.String())
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("it ended with %v, want exit status 1", err)
			}
		})
	}
	waitProblems(t, h1)
	there.more(10)
	there.intact()
}

// TestStartWaits starts daemons where something is missing that may still come.
//
//	as in TestStartRefused
func TestStartWaits(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Containers = 1 })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	blocked := filepath.Join(h1.Dir, "blocked")
	noError(t, os.WriteFile(blocked, nil, 0o600))

	t.Run("uplink", func(t *testing.T) {
		rename(t, h1, lab.Uplink, "eth9")
		waitsFor(t, h1, "session", "find uplink: --iface eth0: no such interface (there are eth9 [192.168.32.245], br245 [172.245.0.1])",
			func() { rename(t, h1, "eth9", lab.Uplink) })
	})
	t.Run("directory of the embedded etcd", func(t *testing.T) {
		waitsFor(t, h1, "session", "start embedded etcd: mkdir "+blocked+": not a directory",
			func() { noError(t, os.Remove(blocked)) }, "--etcd-embedded="+blocked)
	})
	t.Run("etcd", func(t *testing.T) {
		waitsFor(t, h2, "", "etcd is out of reach; what it said last stays in force",
			func() { noError(t, h1.StartDaemon(t.Context(), jsonLog)) })
	})
	noError(t, h2.StartDaemon(t.Context(), jsonLog, "--subnet-file=/sys/bpfnet/subnet.env"))
	text := "write subnet file: mkdir /sys/bpfnet: operation not permitted"
	waitProblems(t, h2, node.Problem{Source: "subnet file", Text: text})
	equal(t, "h2's warnings", []string{text}, warnings(t, h2, 0))
	learn(t, h2)
	ping(t, h2.Containers[0].NS, h1.Containers[0].Addr, lab.PingOptions{Count: 10, Interval: time.Millisecond})
}

// waitsFor starts a host's daemon, which says once what is missing, and goes on
// once that is mended. Its log ends empty, and it stopped.
func waitsFor(t *testing.T, h *lab.Host, source, text string, mend func(), args ...string) {
	t.Helper()
	started := inBackground(func() error { return h.StartDaemon(t.Context(), append(args, jsonLog)...) })
	if source != "" {
		waitProblems(t, h, node.Problem{Source: source, Text: text})
	} else {
		until(t, h.Name+" logs", func() (bool, error) { _, err := os.Stat(h.LogFile()); return err == nil, nil })
		waitLog(t, h, 0, text)
	}
	mend()
	started.wait(t)
	waitProblems(t, h)
	equal(t, h.Name+"'s warnings", []string{text}, warningsBut(t, h, 0, "is down: set it up")) // an uplink is, while it is renamed
	noError(t, h.StopDaemon(t.Context()))
	noError(t, emptyLog(h))
}

// rename gives a link another name; it has to be down meanwhile, and the default
// route goes with that.
func rename(t *testing.T, h *lab.Host, from, to string) {
	t.Helper()
	for _, args := range [][]string{{"set", from, "down"}, {"set", from, "name", to}, {"set", to, "up"}} {
		run(t, h.NS, append([]string{"ip", "link"}, args...)...)
	}
	run(t, h.NS, "ip", "route", "add", "default", "via", "192.168.32.1")
}
