// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"slices"
	"strings"
)

// The measures of a chart, in the units of its viewBox.
const (
	chartWidth = 760
	labelWidth = 150
	valueWidth = 130
	rowHeight  = 26
	barHeight  = 16
	axisHeight = 24
	axisWidth  = chartWidth - labelWidth - valueWidth
)

// chart is horizontal bars, one a mode.
type chart struct {
	Title  string
	Height int
	Bars   []bar
	Marks  []mark
}

// bar is one mode's value, drawn from Zero.
type bar struct {
	Class       string // of its colour: "host", "netlink", "ebpf" or "other"
	Label, Text string
	Tip         string
	Y, Middle   int
	X, Width    float64
	Low, High   float64 // the whisker, in the same units as X; equal: none
	TextX       float64
}

// mark is a line across the chart.
type mark struct {
	X     float64
	Label string
}

// rateBars draws the medians of a load, with a whisker from least to most.
func rateBars(s section) chart {
	most := 0.0
	for _, r := range s.Rows {
		most = max(most, r.Max)
	}
	at := scale(0, most)
	c := chart{Title: s.Title}
	for _, r := range s.Rows {
		c.add(bar{
			Class: class(r.Mode), Label: r.Mode, Text: quantity(r.Median, r.Unit), X: at(0), Width: at(r.Median) - at(0),
			Low: at(r.Min), High: at(r.Max), TextX: at(r.Max),
			Tip: fmt.Sprintf("%s: median %s, least %s, most %s", r.Mode, quantity(r.Median, r.Unit), quantity(r.Min, r.Unit), quantity(r.Max, r.Unit)),
		})
	}
	return c
}

// taxCharts draw the overlay tax of each load that has one.
func taxCharts(sections []chartSection) []chartSection {
	var all []chartSection
	for _, s := range sections {
		least, most := 0.0, 1.0
		var rows []row
		for _, r := range s.Rows {
			if r.Tax != nil {
				rows = append(rows, r)
				least, most = min(least, *r.Tax), max(most, *r.Tax)
			}
		}
		if len(rows) == 0 {
			continue
		}
		all = append(all, chartSection{section: s.section, Bars: taxBars(s.Title, rows, scale(max(least, -taxMost), min(most, taxMost)))})
	}
	return all
}

// taxMost is where a bar of tax ends, on either side: a mode many times as slow would leave the
// others no room, and so would one of noise, where netlink mode is hardly slower than the host.
const taxMost = 2

func taxBars(title string, rows []row, at func(float64) float64) chart {
	c := chart{Title: title, Marks: []mark{{at(1), reference}}}
	for _, r := range rows {
		from, to := max(min(0, *r.Tax), -taxMost), min(max(0, *r.Tax), taxMost)
		text := taxText(r.Tax)
		c.add(bar{
			Class: class(r.Mode), Label: r.Mode, Text: text, X: at(from), Width: at(to) - at(from), TextX: at(to),
			Tip: fmt.Sprintf("%s: tax %s", r.Mode, text),
		})
	}
	return c
}

func (c *chart) add(b bar) {
	b.Y = len(c.Bars)*rowHeight + (rowHeight-barHeight)/2
	b.Middle = b.Y + barHeight/2
	b.TextX += 8
	c.Bars = append(c.Bars, b)
	c.Height = len(c.Bars) * rowHeight
}

// scale maps values onto the chart's axis.
func scale(least, most float64) func(float64) float64 {
	span := most - least
	if span <= 0 {
		span = 1
	}
	return func(v float64) float64 { return labelWidth + axisWidth*(v-least)/span }
}

// class is which colour a mode has.
func class(mode string) string {
	kind, _, _ := strings.Cut(mode, "-")
	if slices.Contains([]string{"host", "netlink", "ebpf"}, kind) {
		return kind
	}
	return "other"
}
