// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/maps"
)

// Found is who translates destinations.
type Found struct {
	Mode maps.NATMode // what the programs have to be told
	By   string       // for people; empty where nobody does
}

// Finder looks, and remembers what it need not look at again. Not for
// concurrent use.
type Finder struct {
	generation uint32 // of nftables, when its rules were read
	table      string // that translated then
}

// Find is who translates. What cannot be read is taken for somebody who does,
// and is an error as well. Before is the mode until now: once there have been
// rules, their connections count for as long as they last.
func (f *Finder) Find(before maps.NATMode) (Found, error) {
	services, err := ipvsServices()
	if services || err != nil {
		return Found{maps.NATOther, "IPVS"}, err
	}
	for _, look := range []func() (string, error){
		legacyTable,
		f.nftablesTable,
		func() (string, error) { return connections(before) },
	} {
		if by, err := look(); by != "" || err != nil {
			return Found{maps.NATConntrack, by}, err
		}
	}
	return Found{Mode: maps.NATNone}, nil
}

// ipvsServices reports whether IPVS has a service, which is listed behind three
// lines of header (ip_vs_info_seq_show in net/netfilter/ipvs/ip_vs_ctl.c).
func ipvsServices() (bool, error) {
	list, err := readList("/proc/thread-self/net/ip_vs")
	return bytes.Count(list, []byte("\n")) > 3, err
}

// legacyTable is the nat table of iptables-legacy or ip6tables-legacy, where somebody has made it.
func legacyTable() (string, error) {
	for command, list := range map[string]string{"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"} {
		tables, err := readList("/proc/thread-self/net/" + list)
		if err != nil {
			return "", err
		}
		if slices.Contains(strings.Fields(string(tables)), "nat") {
			return command + "'s nat table", nil
		}
	}
	return "", nil
}

// readList reads a file that is not there where the kernel has no such part.
func readList(path string) ([]byte, error) {
	list, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for address translation: %w", err)
	}
	return list, nil
}
