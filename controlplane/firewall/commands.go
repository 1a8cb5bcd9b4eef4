// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// lockTimeout is how long an iptables command waits for another one, in seconds.
const lockTimeout = 5

// commands returns the iptables commands to run: those whose filter table is in
// use and, to put something there beforehand, the host's default.
func (f family) commands(beforehand bool) ([]string, error) {
	tables, err := f.filterTables()
	if err != nil {
		return nil, err
	}
	var names []string
	if beforehand {
		names = append(names, f.command)
	}
	for _, variant := range tables {
		names = append(names, f.command+variant)
	}
	commands := installed(names)
	if len(commands) == 0 && len(tables) > 0 { // an old host may have but the one, without a suffix
		commands = installed([]string{f.command})
	}
	if len(commands) == 0 && len(tables) > 0 && beforehand {
		return nil, fmt.Errorf("accept forwarded packets: the kernel has a filter table of %[1]s but there is no such command: install %[1]s", f.command)
	}
	return commands, nil
}

// filterTables tells by the commands' suffixes which of them have a filter table in the kernel.
// It asks the kernel, as the legacy command would make one by looking.
func (f family) filterTables() ([]string, error) {
	var variants []string
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("reach nftables over netlink: %w", err)
	}
	table, err := f.find(conn, filterTable)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	if table != nil {
		variants = append(variants, "-nft")
	}
	legacy, err := os.ReadFile(f.legacyTablesFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list tables of %s-legacy: %w", f.command, err)
	}
	if slices.Contains(strings.Fields(string(legacy)), filterTable) {
		variants = append(variants, "-legacy")
	}
	return variants, nil
}

// installed finds commands by name, each program once: iptables is one of its variants.
func installed(names []string) []string {
	var paths, programs []string
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		program, err := filepath.EvalSymlinks(path)
		if err != nil || slices.Contains(programs, program) {
			continue
		}
		paths, programs = append(paths, path), append(programs, program)
	}
	return paths
}
