// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// Build compiles bpfnet into a directory, for tests, and returns the binary's
// path: what Options.Binary wants.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "bpfnet")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/bpfnet/bpfnet/cmd/bpfnet").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build bpfnet: %w: %s", err, bytes.TrimSpace(out))
	}
	return binary, nil
}
