// SPDX-License-Identifier: Apache-2.0

//go:build root

package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestDownWaitsForForks: a process between fork and exec has all files that its parent had. It may be about to
// become one of the lab's, or of another's: it is waited for, not killed.
func TestDownWaitsForForks(t *testing.T) {
	o := Defaults()
	o.Name, o.Hosts = "forks", 1
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	f, err := join(o.Name) // as such a process has it
	if err != nil {
		t.Fatal(err)
	}
	down := make(chan error, 1)
	go func() { down <- Down(o.Name) }()
	ns := l.Hosts[0].NS
	for range 2 { // the second is killed only if Down still waits after it has killed the first
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		if err := l.Start(ns, cmd); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
		case err := <-down:
			t.Fatalf("taken down with one of its processes alive, error %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(netnsDir, string(ns))); err != nil {
		t.Errorf("its namespace while one of its processes is alive: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if f, err := join(o.Name); !errors.Is(err, ErrNotUp) {
		t.Errorf("joined %v, error %v, want %v", f, err, ErrNotUp)
	}
}

// TestLabOfEarlierBuild: its state does not say whether it is kept, there are no locks, and its daemons are
// known by their records alone.
func TestLabOfEarlierBuild(t *testing.T) {
	o := Defaults()
	o.Name, o.Hosts = "earlier", 1
	l, err := Up(t.Context(), o)
	if err == nil {
		err = l.Keep()
	}
	if err != nil {
		t.Fatal(err)
	}
	daemon := start(t)
	state := `{"Options": {"Name": "earlier"}, "Owner": {"PID": 1, "Start": 1}, "Hosts": []}`
	err = errors.Join(
		l.Hosts[0].recordDaemon(daemon),
		os.WriteFile(statePath(o.Name), []byte(state), 0o644),
		os.Remove(filepath.Join(l.dir(), ownerLock)), os.Remove(filepath.Join(l.dir(), processesLock)),
	)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Up(t.Context(), o); !errors.Is(err, ErrUp) || !daemon.alive() {
		t.Errorf("lab beside it: %v, want %v; its daemon is alive: %t", err, ErrUp, daemon.alive())
	}
	if err = Down(o.Name); err != nil || daemon.alive() {
		t.Errorf("taken down: %v; its daemon is alive: %t", err, daemon.alive())
	}
	namespaces, err := namespacesOf(o.Name)
	if _, e := os.Stat(l.dir()); err != nil || len(namespaces) > 0 || !errors.Is(e, os.ErrNotExist) {
		t.Errorf("left behind: %v, %s, errors %v, %v", namespaces, l.dir(), err, e)
	}
}
