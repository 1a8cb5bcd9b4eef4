// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/maps/dump"
)

func newMapsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "maps",
		Short: "Show what the datapath's maps hold, with or without a daemon",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newMapsListCommand(), newMapsDumpCommand())
	return cmd
}

func newMapsListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the maps: what they are for, and how full",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withMaps(cmd, output, func(set *maps.Set) error {
				t, err := dump.List(set)
				if err != nil {
					return err
				}
				return dump.Write(cmd.OutOrStdout(), output, t)
			})
		},
	}
	addOutputFlag(cmd, &output)
	return cmd
}

func newMapsDumpCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "dump [NAME]",
		Short: "Show the entries of one map, or of all, decoded",
		Long: "Show the entries of one map, or of all, decoded. The maps are\n" +
			strings.Join(dump.Names(), ", ") + ".\n\n" +
			"Events are shown once: reading takes them out of their ring, for every reader.",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: dump.Names(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return withMaps(cmd, output, func(set *maps.Set) error { return dumpAll(cmd, output, set) })
			}
			if err := dump.CheckName(args[0]); err != nil {
				return err
			}
			return withMaps(cmd, output, func(set *maps.Set) error { return dumpOne(cmd, output, set, args[0]) })
		},
	}
	addOutputFlag(cmd, &output)
	return cmd
}

func addOutputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", dump.Formats[0], strings.Join(dump.Formats, ", "))
}

func dumpAll(cmd *cobra.Command, output string, set *maps.Set) error {
	tables, err := dump.ReadAll(set)
	if err != nil {
		return err
	}
	return dump.WriteAll(cmd.OutOrStdout(), output, tables)
}

func dumpOne(cmd *cobra.Command, output string, set *maps.Set, name string) error {
	t, err := dump.Read(set, name)
	if err != nil {
		return err
	}
	return dump.Write(cmd.OutOrStdout(), output, t)
}

// withMaps gives f the maps pinned under the run directory.
func withMaps(cmd *cobra.Command, output string, f func(*maps.Set) error) (err error) {
	if err = dump.CheckFormat(output); err != nil {
		return err
	}
	runDir, err := cmd.Flags().GetString("run-dir")
	if err != nil {
		return err
	}
	set, err := openMaps(runDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	return f(set)
}

func openMaps(runDir string) (*maps.Set, error) {
	dir, err := loader.PinDir(runDir)
	if err == nil {
		var set *maps.Set
		if set, err = maps.OpenPinned(filepath.Join(dir, "maps")); err == nil {
			return set, nil
		}
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("no permission to read the maps under %s: run as root", runDir)
	case errors.Is(err, maps.ErrNoDatapath):
		return nil, fmt.Errorf("no datapath under %s: is the daemon's --run-dir another?", runDir)
	}
	return nil, err
}
