// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDaemonOf(t *testing.T) {
	for _, test := range []struct{ exe, line, want string }{
		{"flanneld", "/opt/bin/flanneld\x00-iface=eth0\x00", "flanneld"},
		{"bpfnet", "flanneld\x00", "flanneld"},
		{"flanneld", "", "flanneld"},
		{"bpfnet", "bpfnet\x00--run-dir\x00/run/x\x00daemon\x00", "another bpfnet daemon"},
		{"bpfnet", "bpfnet\x00status\x00", ""},
		{"dockerd", "dockerd\x00daemon\x00", ""},
		{".", "", ""}, // a kernel thread
		{"vi", "vi\x00/etc/flanneld\x00", ""},
	} {
		if got := daemonOf(test.exe, []byte(test.line)); got != test.want {
			t.Errorf("%s %q is %q, want %q", test.exe, test.line, got, test.want)
		}
	}
}

func TestStartOf(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	own, childs := startOf("/proc/self"), startOf(filepath.Join("/proc", strconv.Itoa(child.Process.Pid)))
	if own == 0 || childs < own || startOf("/proc/0") != 0 {
		t.Errorf("own start %d, the child's %d", own, childs)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
}

func FuzzDaemonOf(f *testing.F) {
	f.Add("bpfnet", []byte("bpfnet\x00daemon\x00"))
	f.Fuzz(func(_ *testing.T, exe string, line []byte) { daemonOf(exe, line) })
}

func TestCheckRivals(t *testing.T) {
	if err := checkRivals(); err != nil {
		t.Fatalf("before there is one: %v", err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	flanneld := filepath.Join(t.TempDir(), "flanneld")
	if err = os.Symlink(sleep, flanneld); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(flanneld, "60")
	if err = process.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { // Start returns when execve(2) has closed the files, which is before there is a command line
		line, failed := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process.Process.Pid))
		return failed == nil && len(line) > 0
	})
	if err = checkRivals(); err == nil || !strings.HasPrefix(err.Error(), "flanneld runs in this network namespace, as process ") {
		t.Errorf("beside flanneld: %v", err)
	}
	if err = process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait() // killed
	if err = checkRivals(); err != nil {
		t.Errorf("once it has ended: %v", err)
	}
}
