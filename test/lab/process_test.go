// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	rest := " S" + strings.Repeat(" 1", 18) + " 4711 0 0"
	tests := map[string]struct {
		stat  string
		start uint64 // 0: an error
	}{
		"plain":              {"12 (sleep)" + rest, 4711},
		"space in name":      {"12 (a b)" + rest, 4711},
		"parentheses":        {"12 (a) S 1 (b)" + rest, 4711},
		"short":              {"12 (sleep) S 1 2", 0},
		"empty":              {"", 0},
		"no number":          {"12 (sleep) S" + strings.Repeat(" x", 30), 0},
		"no name":            {"12 S" + strings.Repeat(" 1", 30), 0},
		"state of two bytes": {"12 (sleep) SS" + strings.Repeat(" 1", 30), 0},
	}
	for name, test := range tests {
		start, state, err := parseStat([]byte(test.stat))
		if (err != nil) != (test.start == 0) || (err == nil && (start != test.start || state != 'S')) {
			t.Errorf("%s: start %d, state %q, error %v, want start %d", name, start, state, err, test.start)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (sleep) S" + strings.Repeat(" 1", 30)))
	f.Fuzz(func(_ *testing.T, stat []byte) { _, _, _ = parseStat(stat) })
}

// start starts a process that would run for a minute.
func start(t *testing.T) process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // by a signal
	})
	p, _, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProcessEnd(t *testing.T) {
	p := start(t)
	if !p.alive() {
		t.Error("a process that runs is not alive")
	}
	if err := p.end(t.Context(), unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if p.alive() { // a zombie: nobody has waited for it
		t.Error("a process that has ended is alive")
	}
	if err := p.end(t.Context(), unix.SIGTERM); err != nil {
		t.Errorf("second end: %v", err)
	}
}

// TestProcessIsNotAnother: a process that has got the number of one that ended is left alone.
func TestProcessIsNotAnother(t *testing.T) {
	p := start(t)
	former := process{p.PID, p.Start - 1}
	if former.alive() {
		t.Error("a former process is alive")
	}
	if err := former.end(t.Context(), unix.SIGKILL); err != nil || !p.alive() {
		t.Errorf("its successor was killed (error %v)", err)
	}
}

func TestProcessEndTimeout(t *testing.T) {
	p, _, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.end(ctx, unix.SIGWINCH); err == nil { // which by default does nothing
		t.Error("this process ended")
	}
	if gone := (process{PID: os.Getpid(), Start: 1}); gone.alive() {
		t.Error("a process of another start time is alive")
	}
}

func TestInherited(t *testing.T) {
	for info, want := range map[string]bool{
		"pos:\t0\nflags:\t0100002\nmnt_id:\t29\n":  true,
		"pos:\t0\nflags:\t02100002\nmnt_id:\t29\n": false, // O_CLOEXEC
		"pos:\t0\nflags:\t0900002\n":               false,
		"pos:\t0\n":                                false,
		"":                                         false,
	} {
		if got := inherited([]byte(info)); got != want {
			t.Errorf("%q: %t, want %t", info, got, want)
		}
	}
}
