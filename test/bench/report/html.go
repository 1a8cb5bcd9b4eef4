// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"

	"github.com/bpfnet/bpfnet/test/bench"
)

//go:embed page.html.tmpl
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"quantity": quantity, "nanoseconds": nanoseconds, "times": times, "tax": taxText, "absent": absentName,
	"rows": func(n int) int { return n*rowHeight + axisHeight }, "label": func(height int) int { return height + axisHeight/2 },
}).Parse(pageText))

// HTML writes the report as one page that needs nothing else: no script, no
// network. It is well-formed XML too.
func HTML(w io.Writer, r *bench.Report) error {
	p := pageData{Report: r, About: about(r), Settings: settings(r.Machine)}
	for _, s := range sections(r) {
		p.Sections = append(p.Sections, chartSection{section: s, Bars: rateBars(s)})
	}
	p.Taxes = taxCharts(p.Sections)
	if err := page.Execute(w, p); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

type pageData struct {
	*bench.Report
	About    []string
	Taxes    []chartSection
	Sections []chartSection
	Settings []setting
}

// chartSection is a load and the bars of its chart.
type chartSection struct {
	section
	Bars chart
}

type setting struct{ Name, Value string }

// settings are what else of the machine is known, sorted by name.
func settings(m bench.Machine) []setting {
	all := []setting{
		{"CPU time taken by others between measurements, at most", fmt.Sprintf("%.1f %%", 100*m.Background)},
		{"CPU time taken by a hypervisor", fmt.Sprintf("%.1f %%", 100*m.Steal)},
	}
	for _, name := range slices.Sorted(maps.Keys(m.Sysctls)) {
		all = append(all, setting{name, m.Sysctls[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Offloads)) {
		all = append(all, setting{"uplink " + name, map[bool]string{true: "on", false: "off"}[m.Offloads[name]]})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Mitigations)) {
		all = append(all, setting{name, m.Mitigations[name]})
	}
	return all
}
