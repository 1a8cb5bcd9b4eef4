// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/bpfnet/bpfnet/test/bench"
)

// Table writes the report for a terminal.
func Table(w io.Writer, r *bench.Report) error {
	b := new(strings.Builder)
	for _, line := range about(r) {
		fmt.Fprintf(b, "%s\n", line)
	}
	for _, s := range sections(r) {
		writeSection(b, s)
	}
	for _, a := range r.Absent {
		fmt.Fprintf(b, "\nabsent: %s: %s\n", absentName(a), a.Reason)
	}
	for _, line := range legend {
		fmt.Fprintf(b, "\n%s", line)
	}
	b.WriteByte('\n')
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func writeSection(w io.Writer, s section) {
	fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.Title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	// The first column stands left: a tabwriter aligns all cells alike, so it is padded by hand.
	width := len("MODE")
	for _, r := range s.Rows {
		width = max(width, len(r.Mode))
	}
	fmt.Fprintf(t, "  %-*s\tMEDIAN\tMIN\tMAX\tCPU/%s\t/ %s\t/ HOST\tTAX\t\n",
		width, "MODE", strings.ToUpper(s.Each), strings.ToUpper(reference))
	for _, r := range s.Rows {
		fmt.Fprintf(t, "  %-*s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", width, r.Mode,
			quantity(r.Median, r.Unit), quantity(r.Min, r.Unit), quantity(r.Max, r.Unit),
			nanoseconds(r.CPUNs), times(r.Reference), times(r.Host), taxText(r.Tax))
	}
	_ = t.Flush() // into a strings.Builder, which takes all
}

// legend tells what the columns mean.
var legend = []string{
	"MEDIAN, MIN, MAX: over the rounds, of what arrived. CPU: time of the whole machine's CPUs for each.",
	"/ NETLINK-VXLAN, / HOST: the median divided by that mode's.",
	"TAX: time for each beyond host to host, as a share of what netlink-vxlan takes beyond it: (1/rate - 1/host) / (1/netlink-vxlan - 1/host).",
}

// about tells where and how the report was made.
func about(r *bench.Report) []string {
	m := r.Machine
	lines := []string{
		machineLine(m),
		fmt.Sprintf("%s; %d rounds of %g s; pinned to CPUs %v; governor %s", m.Time.Format("2006-01-02 15:04 UTC"), m.Rounds, m.Duration,
			m.Cores, m.Governor),
	}
	if m.Peer != "" {
		lines = append(lines, "other host: "+m.Peer)
	} else {
		lines = append(lines, "hosts are network namespaces; their daemons run with --bridge-headroom, which is off by default")
	}
	return append(lines, warnings(m)...)
}

const noticeable = 0.05 // share of the CPUs' time

// warnings tell what speaks against the figures.
func warnings(m bench.Machine) []string {
	var all []string
	if m.Background > noticeable {
		all = append(all, fmt.Sprintf("warning: the machine was not quiet: others took up to %.0f %% of its CPUs between measurements", 100*m.Background))
	}
	if m.Steal > noticeable {
		all = append(all, fmt.Sprintf("warning: a hypervisor took %.0f %% of the CPUs' time", 100*m.Steal))
	}
	if cc := "net.ipv4.tcp_congestion_control"; m.Peer != "" && m.Sysctls[cc] == "bbr" { // in a lab it is never BBR
		all = append(all, "warning: TCP paces itself (BBR), below what packets cost: for the streams, set "+cc+" to reno or cubic on the sending host")
	}
	if len(m.Cores) < 2 {
		all = append(all, "warning: sender and receiver share one CPU")
	}
	return all
}

func absentName(a bench.Absent) string {
	if a.Mode == "" {
		return a.Load
	}
	return a.Mode
}
