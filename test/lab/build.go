// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build compiles bpfnet into a directory, for tests, and returns the binary's
// path: what Options.Binary wants. It is built as `make build` does, and so out
// of the same cache. More flags of "go build" may be given.
func Build(ctx context.Context, dir string, flags ...string) (string, error) {
	binary := filepath.Join(dir, "bpfnet")
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", binary}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/bpfnet/bpfnet/cmd/bpfnet")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build bpfnet: %w: %s", err, bytes.TrimSpace(out))
	}
	return binary, nil
}
