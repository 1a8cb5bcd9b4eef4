// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/test/lab"
)

// timeout bounds every wait for something that takes far less, but in an
// emulated machine.
const timeout = 30 * time.Second

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, done func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, lab.Until(ctx, what, done))
}

// equal reports how got differs from want.
func equal(t *testing.T, what string, want, got any, o ...cmp.Option) {
	t.Helper()
	if d := cmp.Diff(want, got, o...); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func run(t *testing.T, n lab.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run(t.Context(), args...)
	noError(t, err)
	return out
}
