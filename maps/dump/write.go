// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Formats are what Write and WriteAll can write.
var Formats = []string{"table", "json", "yaml"}

// CheckFormat tells of a format that is none, and which there are.
func CheckFormat(format string) error {
	if !slices.Contains(Formats, format) {
		return fmt.Errorf("unknown output format %q: the formats are %s", format, strings.Join(Formats, ", "))
	}
	return nil
}

// Write writes one table: an array, in JSON and YAML.
func Write(w io.Writer, format string, t Table) error {
	return write(w, format, t, t.writeText)
}

// WriteAll writes tables under headings: an object with a key for each, in
// JSON and YAML.
func WriteAll(w io.Writer, format string, tables []Table) error {
	byName := make(map[string]Table, len(tables))
	for _, t := range tables {
		byName[t.Name] = t
	}
	return write(w, format, byName, func(b *bufio.Writer) {
		for i, t := range tables {
			if i > 0 {
				fmt.Fprintln(b)
			}
			fmt.Fprintf(b, "%s: %s\n", t.Name, t.Title)
			t.writeText(b)
		}
	})
}

func (t Table) writeText(w *bufio.Writer) {
	var rows [][]string
	for _, r := range t.records {
		rows = append(rows, r.rows()...)
	}
	writeTable(w, t.columns, rows)
}

func write(w io.Writer, format string, value any, text func(*bufio.Writer)) error {
	if err := CheckFormat(format); err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	switch format {
	case "json":
		enc := json.NewEncoder(b)
		enc.SetIndent("", "  ")
		if err := enc.Encode(value); err != nil {
			return fmt.Errorf("encode as JSON: %w", err)
		}
	case "yaml":
		out, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode as YAML: %w", err)
		}
		b.Write(out) //nolint:errcheck // comes with Flush
	default:
		text(b)
	}
	return b.Flush()
}
