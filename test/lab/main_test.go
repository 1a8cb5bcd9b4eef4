// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// tempDir is the package's, removed when its tests have run.
var tempDir string

func TestMain(m *testing.M) { goleak.VerifyTestMain(withTempDir{m}) }

type withTempDir struct{ m *testing.M }

func (w withTempDir) Run() int {
	var err error
	if tempDir, err = os.MkdirTemp("", "bpfnet-lab-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := w.m.Run()
	if err := os.RemoveAll(tempDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
