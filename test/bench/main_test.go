// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/bpfnet/bpfnet/test/lab"
)

var tempDir string // the package's, removed when its tests have run

// built is bpfnet, built once for all tests of the package.
var built = sync.OnceValues(func() (string, error) { return lab.Build(context.Background(), tempDir) })

func TestMain(m *testing.M) { goleak.VerifyTestMain(withTempDir{m}) }

type withTempDir struct{ m *testing.M }

func (w withTempDir) Run() int {
	var err error
	if tempDir, err = os.MkdirTemp("", "bpfnet-bench-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tempDir) //nolint:errcheck // a temporary directory
	return w.m.Run()
}

// options are for a run that is short: nobody believes its figures.
func options(t *testing.T) Options {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Modes: Modes(), Loads: Loads(), Rounds: 1, Duration: short, Binary: b}
}

// check wants sane figures of every mode and load, and no others.
func check(t *testing.T, r *Report, modes []string, loads []Load) {
	t.Helper()
	seen := map[cell]bool{}
	for _, result := range r.Results {
		seen[cell{result.Mode, result.Load}] = true
		if result.Min <= 0 || result.Median < result.Min || result.Max < result.Median || result.CPUNs <= 0 || result.Unit == "" {
			t.Errorf("not sane: %+v", result)
		}
	}
	for _, l := range loads {
		for _, m := range modes {
			if !seen[cell{m, l.Name}] {
				t.Errorf("no result of %s in mode %s", l.Name, m)
			}
		}
	}
	if len(r.Results) != len(modes)*len(loads) {
		t.Errorf("%d results, want %d", len(r.Results), len(modes)*len(loads))
	}
	m := r.Machine
	if m.Kernel == "" || m.CPUs < 1 || len(m.Cores) < 1 || m.Rounds != 1 || m.Duration != short.Seconds() || m.Time.IsZero() {
		t.Errorf("the machine is not described: %+v", m)
	}
}
