// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// width is the columns of a terminal that a table is to fit in.
const width = 120

const (
	gap    = "  "     // between columns
	indent = "      " // of what stands on lines of its own
)

// writeTable writes columns and rows, aligned: numbers to the right, words to
// the left. A row of a single cell stands, wrapped, on lines of its own.
func writeTable(w *bufio.Writer, columns []string, rows [][]string) {
	if len(rows) == 0 {
		fmt.Fprintln(w, "(no entries)")
		return
	}
	shapes := shapesOf(columns, rows)
	writeRow(w, shapes, columns)
	for _, row := range rows {
		if len(row) == len(columns) {
			writeRow(w, shapes, row)
			continue
		}
		for _, line := range wrap(strings.Join(row, " "), width-len(indent)) {
			fmt.Fprintln(w, indent+line)
		}
	}
}

// shape is how a column is written.
type shape struct {
	width int
	right bool
}

func shapesOf(columns []string, rows [][]string) []shape {
	shapes := make([]shape, len(columns))
	for i, c := range columns {
		shapes[i] = shape{width: utf8.RuneCountInString(c), right: true}
	}
	for _, row := range rows {
		if len(row) != len(columns) {
			continue
		}
		for i, cell := range row {
			shapes[i].width = max(shapes[i].width, utf8.RuneCountInString(cell))
			shapes[i].right = shapes[i].right && strings.Trim(cell, "0123456789") == ""
		}
	}
	return shapes
}

func writeRow(w io.Writer, shapes []shape, row []string) {
	var line strings.Builder
	for i, cell := range row {
		padding := strings.Repeat(" ", shapes[i].width-utf8.RuneCountInString(cell))
		if shapes[i].right {
			cell, padding = padding+cell, ""
		}
		line.WriteString(cell + padding + gap)
	}
	fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
}

// wrap breaks text between words into lines of at most n bytes, as far as the
// words allow.
func wrap(text string, n int) []string {
	var lines []string
	for _, word := range strings.Fields(text) {
		if last := len(lines) - 1; last >= 0 && len(lines[last])+1+len(word) <= n {
			lines[last] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
