// SPDX-License-Identifier: Apache-2.0

// Package dump shows what the datapath's maps hold, decoded: as tables for
// people, as JSON and YAML for programs.
package dump

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/maps"
)

// Table is the content of one map.
type Table struct {
	Name    string
	Title   string // what it is, in words
	columns []string
	records []record
}

// record is one entry. Its fields, by their JSON names, are a promise to programs.
type record interface {
	// rows are the entry for people: a cell for each column, or a single one that stands on lines of its own.
	rows() [][]string
}

// MarshalJSON gives the records, an array also where there are none.
func (t Table) MarshalJSON() ([]byte, error) {
	if t.records == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(t.records)
}

// source is how to get a table.
type source struct {
	name, title string
	columns     []string
	read        func(*maps.Set) ([]record, error)
	partOf      string // the table that shows all of this one too
}

// Names are the tables there are.
func Names() []string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = s.name
	}
	return names
}

// CheckName tells of a name that no table has, and which there are.
func CheckName(name string) error {
	if names := Names(); !slices.Contains(names, name) {
		return fmt.Errorf("unknown map %q: the maps are %s", name, strings.Join(names, ", "))
	}
	return nil
}

// Read is one table, by its name.
func Read(set *maps.Set, name string) (Table, error) {
	if err := CheckName(name); err != nil {
		return Table{}, err
	}
	i := slices.IndexFunc(sources, func(s source) bool { return s.name == name })
	return sources[i].table(set)
}

// ReadAll is every table.
func ReadAll(set *maps.Set) ([]Table, error) {
	var tables []Table
	for _, s := range sources {
		if s.partOf != "" {
			continue
		}
		t, err := s.table(set)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func (s source) table(set *maps.Set) (Table, error) {
	records, err := s.read(set)
	return Table{Name: s.name, Title: s.title, columns: s.columns, records: records}, err
}

// bad is an entry that does not decode.
type bad struct {
	Reason string `json:"bad"`
	Key    string `json:"raw_key"` // hexadecimal, as it stands in the map
	Value  string `json:"raw_value"`
}

func newBad(b *maps.BadEntry) bad {
	return bad{
		Reason: strings.ReplaceAll(b.Reason.Error(), "\n", "; "),
		Key:    hex.EncodeToString(b.Key),
		Value:  hex.EncodeToString(b.Value),
	}
}

func (b bad) rows() [][]string {
	return [][]string{{"bad entry: " + b.Reason}, {"key " + grouped(b.Key)}, {"value " + grouped(b.Value)}}
}

// grouped puts a space after every four bytes.
func grouped(hexadecimal string) string {
	var words []string
	for word := range slices.Chunk([]byte(hexadecimal), 8) {
		words = append(words, string(word))
	}
	return strings.Join(words, " ")
}

// recordsOf turns entries into records, those that do not decode into bad ones.
func recordsOf[K, V any, R record](entries []maps.Entry[K, V], err error, decode func(K, V) R) ([]record, error) {
	records := make([]record, len(entries))
	for i, e := range entries {
		if e.Bad != nil {
			records[i] = newBad(e.Bad)
		} else {
			records[i] = decode(e.Key, e.Value)
		}
	}
	return records, err
}
