// SPDX-License-Identifier: Apache-2.0

//go:build root

package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun measures two small clusters, and then is interrupted at each step of one.
func TestRun(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // other checkouts may be tested at the same time
	binary, err := lab.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	o := Options{
		Nodes: []int{1, 150}, Rate: 100, Changes: 20, Binary: binary,
		Progress: func(s bench.Step) { steps = append(steps, s.Text) },
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range r.Results {
		ordered := 0 < c.P50 && c.P50 <= c.P99 && c.P99 <= c.Max
		if c.Nodes != o.Nodes[i] || c.FirstSync <= 0 || c.Restart <= 0 || c.KernelView < c.FirstSync || !ordered || c.RSS == 0 || c.PeakRSS < c.RSS || c.Maps == 0 || c.IdleCPU < 0 {
			t.Errorf("not sane: %+v", c)
		}
	}
	if len(r.Results) != 2 || r.Rate != 100 || r.Changes != 20 || r.Machine.Kernel == "" {
		t.Errorf("report %+v", r)
	}
	noneLeft(t)
	for _, at := range steps[len(steps)/2:] {
		ctx, cancel := context.WithCancel(t.Context())
		o.Nodes = []int{1, 150}[1:]
		text := strings.Replace(at, "cluster 2 of 2", "cluster 1 of 1", 1)
		o.Progress = func(s bench.Step) {
			if s.Text == text {
				cancel()
			}
		}
		if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted at %q: error %v, want that of the context", text, err)
		}
		cancel()
		noneLeft(t)
	}
}

// noneLeft wants neither namespaces nor etcd's directory to remain.
func noneLeft(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/bpfnet-bench*", filepath.Join(os.TempDir(), "bpfnet-lab-"+labName+"-*"), "/run/bpfnet-lab/*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, error %v", left, err)
		}
	}
}

// TestBroken: a process that ends at once is told of, not waited for.
func TestBroken(t *testing.T) {
	o := Options{Nodes: []int{1}, Rate: 1, Changes: 1, Binary: "/bin/false"}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "start etcd: it ended before it served") {
		t.Errorf("error %v of an etcd that ends at once", err)
	}
	noneLeft(t)
}
