// SPDX-License-Identifier: Apache-2.0

//go:build root

package bench

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/test/lab"
)

// TestRun runs every load in every mode that this kernel has. How fast they are
// is nothing a test can tell.
func TestRun(t *testing.T) {
	o := options(t)
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	possible, absent := sort(Modes())
	var names []string
	for _, m := range possible {
		names = append(names, m.Name)
	}
	check(t, r, names, Loads())
	if !slices.Equal(r.Absent, absent) {
		t.Errorf("absent are %v, want %v", r.Absent, absent)
	}
	for _, name := range reported {
		if _, ok := r.Machine.Offloads[name]; !ok && name != "tx-tcp-accecn-segmentation" { // of newer kernels only
			t.Errorf("offloads are %v, want all of %v", r.Machine.Offloads, reported)
		}
	}
	noneLeft(t)
}

// TestInterrupted: wherever a run is when its context ends, nothing of it remains.
func TestInterrupted(t *testing.T) {
	modes, err := ModesNamed([]string{"host", "ebpf-vxlan"})
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]func(Step) bool{
		"while modes are made to stand": func(s Step) bool { return s.Total == 0 },
		"in the third measurement":      func(s Step) bool { return s.Done == 2 },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := options(t)
			o.Modes = modes
			o.Progress = func(s Step) {
				if at(s) {
					cancel()
				}
			}
			if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that of the context", err)
			}
			noneLeft(t)
		})
	}
}

// noneLeft wants no namespace of a bench to exist.
func noneLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob("/run/netns/bpfnet-bench*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

// TestKilled: what a run that was killed has left is no obstacle to the next one, one that runs is.
func TestKilled(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), options(t).Binary, "bench", "--modes", "host,ebpf-vxlan", "--loads", "udp_64", "--duration", "1m")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := lab.Until(t.Context(), "it measures", func() (bool, error) {
		return len(processesOf(t, cmd.Path)) >= 1+4, nil // itself, and agents or daemons
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := clearLabs(); !errors.Is(err, lab.ErrInUse) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v beside a bench that runs, want one line of %v", err, lab.ErrInUse)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // by that signal
	if err := clearLabs(); err != nil {
		t.Error(err)
	}
	noneLeft(t)
	if running := processesOf(t, cmd.Path); len(running) > 0 {
		t.Errorf("left behind: processes %v", running)
	}
}

// processesOf lists the processes of a program.
func processesOf(t *testing.T, binary string) (all []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if exe, err := os.Readlink(p + "/exe"); err == nil && exe == binary {
			all = append(all, p)
		}
	}
	return all
}

// TestVerify: a way that is not the mode's is found out, whichever sign of it is wrong.
func TestVerify(t *testing.T) {
	o := options(t)
	for _, test := range []struct {
		mode   string
		change func(*Mode)
		want   string
	}{
		{"routing", func(m *Mode) { m.ttl = 61 }, "arrive with TTL [62], want 61"},
		{"routing", func(m *Mode) { m.backend = "ipip" }, "were on the wire as"},
		{"routing", func(m *Mode) { m.carrier = device("lo") }, "by the means of routing"},
		{"routing", func(m *Mode) { m.dataplane = dataplaneEBPF; m.carrier = none }, "by the means of"},
		{"redirect", func(m *Mode) { m.ttl = 62 }, "arrive with TTL [64], want 62"}, // past the kernel's forwarding
	} {
		modes, err := ModesNamed([]string{test.mode})
		if err != nil {
			t.Fatal(err)
		}
		s, err := openSite(t.Context(), modes[0], o.Binary)
		if err != nil {
			t.Fatal(err)
		}
		test.change(&s.mode)
		err = s.verify(t.Context())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want one that says %q", err, test.want)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
	noneLeft(t)
}

func none(*lab.Host) (uint64, error) { return 0, nil }
