// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"fmt"

	"github.com/bpfnet/bpfnet/maps"
)

// summary is one map in a list of them.
type summary struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Used   int    `json:"used"`
	Max    uint32 `json:"max"`
	Unit   string `json:"unit"` // of used and max
	Key    string `json:"key"`
	Value  string `json:"value"`
	Writer string `json:"writer"`
	usage  func(*maps.Set) (maps.Usage, error)
}

const (
	entries      = "entries"
	controlPlane = "control plane"
	programs     = "programs"
)

var summaries = []summary{
	{"routes", "LPM trie", 0, 0, entries, "network, prefix", "host index", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Routes.Usage() }},
	{"route_index", "array", 0, 0, entries, "slot", "host, node, MAC, template", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Routes.IndexUsage() }},
	{"hosts", "array", 0, 0, entries, "host index", "node, outer header", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Hosts.Usage() }},
	{"templates", "array", 0, 0, entries, "template", "outer header of many", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Templates.Usage() }},
	{"nodes", "hash", 0, 0, entries, "underlay address", "host index", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Nodes.Usage() }},
	{"neigh", "hash", 0, 0, entries, "network, address", "MAC", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Neigh.Usage() }},
	{"fdb", "hash", 0, 0, entries, "VNI, MAC", "host index", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.FDB.Usage() }},
	{"endpoints", "hash", 0, 0, entries, "network, address", "interface, MACs", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Endpoints.Usage() }},
	{"endpoint_index", "array", 0, 0, entries, "slot", "address, interface, MACs", controlPlane,
		func(s *maps.Set) (maps.Usage, error) { return s.Endpoints.IndexUsage() }},
	{"nat", "array", 0, 0, entries, "none", "NAT mode", controlPlane,
		func(*maps.Set) (maps.Usage, error) { return maps.Usage{Used: 1, Max: 1}, nil }},
	{"counters", "per-CPU array", 0, 0, entries, "program, reason", "packets, bytes", programs,
		func(s *maps.Set) (maps.Usage, error) { return s.Counters.Usage() }},
	{"events", "ring buffer", 0, 0, "bytes", "none", "sampled drop", programs,
		func(s *maps.Set) (maps.Usage, error) { return s.Events.Usage() }},
	{"settings", "array", 0, 0, entries, "none", "settings", "loader",
		func(*maps.Set) (maps.Usage, error) { return maps.Usage{Used: 1, Max: 1}, nil }},
}

func (s summary) rows() [][]string {
	return [][]string{{s.Name, s.Type, fmt.Sprintf("%d of %d %s", s.Used, s.Max, s.Unit), s.Key + " -> " + s.Value, s.Writer}}
}

// List says which maps there are, and how full.
func List(set *maps.Set) (Table, error) {
	t := Table{Name: "maps", Title: "the datapath's maps", columns: []string{"NAME", "TYPE", "USED", "KEY -> VALUE", "WRITER"}}
	for _, s := range summaries {
		usage, err := s.usage(set)
		if err != nil {
			return Table{}, err
		}
		s.Used, s.Max = usage.Used, usage.Max
		t.records = append(t.records, s)
	}
	return t, nil
}
