// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/bench/control"
)

// ControlJSON writes the report as it is.
func ControlJSON(w io.Writer, r *control.Report) error { return writeJSON(w, r) }

// ControlTable writes the report for a terminal.
func ControlTable(w io.Writer, r *control.Report) error {
	b := new(strings.Builder)
	fmt.Fprintf(b, "%s\n", machineLine(r.Machine))
	for _, line := range warnings(r.Machine) {
		fmt.Fprintf(b, "%s\n", line)
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "NODES\tFIRST SYNC\tKERNEL VIEW\tRESTART\tPUT TO MAP P50\tP99\tMAX\tREPLACED P50\tP99\tMAX\tRSS\tPEAK RSS\tMAPS\tIDLE CPU\t")
	for _, c := range r.Results {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f %%\t\n", c.Nodes,
			milliseconds(c.FirstSync), milliseconds(c.KernelView), milliseconds(c.Restart),
			milliseconds(c.P50), milliseconds(c.P99), milliseconds(c.Max),
			milliseconds(c.ReplaceP50), milliseconds(c.ReplaceP99), milliseconds(c.ReplaceMax),
			megabytes(c.RSS), megabytes(c.PeakRSS), megabytes(c.Maps), 100*c.IdleCPU)
	}
	_ = t.Flush() // into a strings.Builder, which takes all
	fmt.Fprintf(b, "\nFIRST SYNC, RESTART: from the start of the daemon's process until it serves all nodes, on empty maps and on full ones;\n"+
		"KERNEL VIEW: until the kernel's own routes, neighbours and FDB do too, which are written after the maps.\n"+
		"PUT TO MAP: from before a lease is put to etcd until the map has its route; %d nodes join, %d a second;\n"+
		"REPLACED: the same where another node's lease is deleted right before; as many, as fast.\n", r.Changes, r.Rate)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

func megabytes(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func machineLine(m bench.Machine) string {
	return fmt.Sprintf("%s, %d CPUs, kernel %s, %s", m.CPU, m.CPUs, m.Kernel, m.Arch)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
