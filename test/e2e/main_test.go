// SPDX-License-Identifier: Apache-2.0

//go:build root

// Package e2e runs the bpfnet binary on the lab's hosts and reads the wire and
// the counters: what is sent has to arrive as the kernel's own tunnels would
// have brought it, and every packet has to be accounted for.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/bpfnet/bpfnet/test/lab"
)

// bpfnetBinary is the program under test.
var bpfnetBinary string

func TestMain(m *testing.M) { goleak.VerifyTestMain(builtOnce{m}) }

// builtOnce builds the binary before the tests run, unless BPFNET_BINARY names
// one: a machine without a compiler has to be told.
type builtOnce struct{ *testing.M }

func (m builtOnce) Run() int {
	if bpfnetBinary = os.Getenv("BPFNET_BINARY"); bpfnetBinary != "" {
		return m.M.Run()
	}
	dir, err := os.MkdirTemp("", "bpfnet-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	if bpfnetBinary, err = lab.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.M.Run()
}
