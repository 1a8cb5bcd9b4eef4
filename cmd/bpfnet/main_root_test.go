// SPDX-License-Identifier: Apache-2.0

//go:build root

package main

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/bpfnet/bpfnet/test/lab"
)

var tempDir string // of built

// built is bpfnet, built once for all tests of the package.
var built = sync.OnceValues(func() (binary string, err error) {
	if tempDir, err = os.MkdirTemp("", "bpfnet-cmd-test-"); err != nil {
		return "", err
	}
	return lab.Build(context.Background(), tempDir)
})

func TestMain(m *testing.M) {
	m.Run()
	_ = os.RemoveAll(tempDir) // a temporary directory
}
