// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/test/bench"
)

// reference is the mode that ratios are to.
const reference = "netlink-vxlan"

// section is a load with a row for each mode it was measured in.
type section struct {
	Name, Title, Unit, Each string
	Rows                    []row
}

// row is one result, and how it compares.
type row struct {
	bench.Result
	Title     string
	Reference float64 // the result divided by that of the reference; 0: not known
	Host      float64 // and of host to host
	Tax       *float64
}

// sections are a report's results by load.
func sections(r *bench.Report) []section {
	var all []section
	for _, result := range r.Results {
		if len(all) == 0 || all[len(all)-1].Name != result.Load {
			all = append(all, newSection(result))
		}
		s := &all[len(all)-1]
		s.Rows = append(s.Rows, newRow(r, result))
	}
	return all
}

func newSection(r bench.Result) section {
	s := section{Name: r.Load, Title: r.Load, Unit: r.Unit}
	if l, err := bench.LoadsNamed([]string{r.Load}); err == nil {
		s.Title, s.Each = l[0].Title, l[0].Unit.Each
	}
	return s
}

func newRow(r *bench.Report, result bench.Result) row {
	out := row{Result: result, Reference: ratio(r, result, reference), Host: ratio(r, result, "host")}
	if m, err := bench.ModesNamed([]string{result.Mode}); err == nil {
		out.Title = m[0].Title
	}
	for _, t := range r.Tax {
		if t.Mode == result.Mode && t.Load == result.Load {
			out.Tax = &t.Value
		}
	}
	return out
}

// ratio is a result divided by that of another mode; 0 where that was not measured.
func ratio(r *bench.Report, result bench.Result, to string) float64 {
	i := slices.IndexFunc(r.Results, func(o bench.Result) bool { return o.Mode == to && o.Load == result.Load })
	if i < 0 || r.Results[i].Median == 0 {
		return 0
	}
	return result.Median / r.Results[i].Median
}

// quantity writes a rate with three digits: "43.8 Gbit/s", "866 k/s".
func quantity(v float64, unit string) string {
	prefix := ""
	for _, p := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, prefix = v/1000, p
	}
	unit = prefix + strings.TrimPrefix(unit, "1")
	return digits(v) + " " + unit
}

func digits(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// nanoseconds writes a CPU time.
func nanoseconds(ns float64) string {
	if ns >= 99_950 {
		return fmt.Sprintf("%.0f µs", ns/1000)
	}
	return fmt.Sprintf("%.0f ns", ns)
}

func times(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func taxText(t *float64) string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", math.Round(*t*100)/100+0) // +0: no "-0.00"
}
