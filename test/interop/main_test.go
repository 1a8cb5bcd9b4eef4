// SPDX-License-Identifier: Apache-2.0

//go:build root

// Package interop runs bpfnet beside and instead of the real thing: unmodified
// flanneld and CNI plugins (`make peers` builds them), on one etcd.
package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/bpfnet/bpfnet/test/lab"
)

// The programs under test, absolute paths.
var (
	bpfnetBinary string
	flanneldPath string
	cniDir       string // flannel, bridge, host-local
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(withBinaries{m}) }

// withBinaries has all programs there before the tests run. BPFNET_BINARY names
// a bpfnet for machines without a compiler.
type withBinaries struct{ *testing.M }

func (m withBinaries) Run() int {
	err := findPeers()
	if bpfnetBinary = os.Getenv("BPFNET_BINARY"); bpfnetBinary == "" && err == nil {
		var dir string
		if dir, err = os.MkdirTemp("", "bpfnet-interop-"); err == nil {
			defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
			bpfnetBinary, err = lab.Build(context.Background(), dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.M.Run()
}

// findPeers finds what the Makefile has built. The tests cannot build it: they
// have no network to download it by.
func findPeers() (err error) {
	if cniDir, err = filepath.Abs("../../bin/peers"); err != nil {
		return err
	}
	flanneldPath = filepath.Join(cniDir, "flanneld")
	for _, name := range []string{"flanneld", "flannel", "bridge", "host-local"} {
		if _, e := os.Stat(filepath.Join(cniDir, name)); e != nil {
			err = errors.Join(err, fmt.Errorf("%w: run `make peers` first", e))
		}
	}
	return err
}
