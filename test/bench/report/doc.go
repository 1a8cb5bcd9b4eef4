// SPDX-License-Identifier: Apache-2.0

// Package report writes what a benchmark measured: for a terminal, for
// machines, and as a page with charts.
package report

import (
	"io"

	"github.com/bpfnet/bpfnet/test/bench"
)

// JSON writes the report as it is.
func JSON(w io.Writer, r *bench.Report) error { return writeJSON(w, r) }
