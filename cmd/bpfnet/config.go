// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

func newConfigCommand() *cobra.Command {
	o := &store.Options{}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Read or change the network config in etcd",
		Args:  cobra.NoArgs,
	}
	registerEtcd(cmd.PersistentFlags(), o)
	cmd.AddCommand(newConfigGetCommand(o), newConfigSetCommand(o))
	return cmd
}

func newConfigGetCommand(o *store.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Print the network config",
		Long:  "Prints the config as it is in etcd; what is wrong with it, or not supported, goes to standard error.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return useEtcd(cmd, o, func(ctx context.Context, s *store.Store) error {
				json, revision, err := s.ReadConfig(ctx)
				if err != nil {
					return err
				}
				if revision == 0 {
					_, err = s.Config(ctx) // which says where, and how to write one
					return err
				}
				if _, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", bytes.TrimSuffix(json, []byte("\n"))); err != nil {
					return err
				}
				c, err := store.ParseConfig(json)
				if err != nil {
					return err
				}
				remark(cmd, c.Warnings())
				return nil
			})
		},
	}
}

func newConfigSetCommand(o *store.Options) *cobra.Command {
	var file string
	var force, dry bool
	cmd := &cobra.Command{
		Use:   "set [JSON]",
		Short: "Write the network config",
		Long: "Writes the config, given as argument or with --file, if nodes can use it and if it is not changed\n" +
			"by somebody else meanwhile, and tells what changes. A change by which nodes lose their subnets, or\n" +
			"stop understanding each other until all have been told, wants --force. bpfnet's nodes follow at\n" +
			"once; flanneld reads the config when it starts.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := configInput(cmd.InOrStdin(), file, args)
			if err != nil {
				return err
			}
			return useEtcd(cmd, o, func(ctx context.Context, s *store.Store) error {
				return setConfig(ctx, cmd, s, json, force, dry)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "read the config from this file; - is standard input")
	cmd.Flags().BoolVar(&force, "force", false, "write it though nodes are cut off")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "tell what would change, and write nothing")
	return cmd
}

// configInput is the config that the user gives, in one of three ways.
func configInput(stdin io.Reader, file string, args []string) ([]byte, error) {
	switch {
	case (file == "") == (len(args) == 0):
		return nil, errors.New(`give the config as one argument, such as '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}', or with --file`)
	case len(args) == 1:
		return []byte(args[0]), nil
	case file == "-":
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

func setConfig(ctx context.Context, cmd *cobra.Command, s *store.Store, json []byte, force, dry bool) error {
	c, err := store.ParseConfig(json)
	if err != nil {
		return err
	}
	old, revision, err := s.ReadConfig(ctx)
	if err != nil {
		return err
	}
	records, err := s.Records(ctx)
	if err != nil {
		return err
	}
	change := configChange{config: c, records: records}
	if change.old, err = store.ParseConfig(old); err != nil {
		change.old = store.Config{} // what nobody could use, if there is anything
	}
	report, cut := change.effects()
	for _, line := range report {
		fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	remark(cmd, c.Warnings())
	switch {
	case dry:
		return nil
	case cut && !force:
		return errors.New("not written: nodes would be cut off, as said above; --force writes it all the same")
	case bytes.Equal(old, json):
		return nil
	}
	err = s.ReplaceConfig(ctx, json, revision)
	if errors.Is(err, store.ErrChanged) {
		return errors.New("not written: somebody else has changed the config just now: see what it is with `bpfnet config get`, and try again")
	}
	return err
}

// remark prints lines for people beside the output for programs.
func remark(cmd *cobra.Command, lines []string) {
	for _, line := range lines {
		fmt.Fprintln(cmd.ErrOrStderr(), "bpfnet:", line)
	}
}

// configChange is a config in place of another, which is the zero Config where
// there is none.
type configChange struct {
	old, config store.Config
	records     []store.Record
}

// effects says what changes, a line each, and whether nodes are cut off by it.
func (c configChange) effects() (lines []string, cut bool) {
	lines = c.config.Difference(c.old)
	if len(lines) == 0 {
		return []string{"nothing changes"}, false
	}
	nodes := 0
	for _, r := range c.records {
		if r.Bad != nil && !errors.Is(r.Bad, store.ErrPending) {
			continue
		}
		if r.Bad == nil { // not a reservation for a node to come
			nodes++
		}
		if !c.config.Fits(r.Lease.Subnet) {
			cut = true
			lines = append(lines, fmt.Sprintf("node %v loses subnet %v and gets another: its containers have to be started anew",
				r.Lease.PublicIP, r.Lease.Subnet))
		}
	}
	if nodes > 0 && c.old != (store.Config{}) && !c.config.Speaks(c.old) {
		cut = true
		lines = append(lines, fmt.Sprintf("what nodes send changes (of %d): bpfnet's at once; "+
			"flanneld's when they are restarted, and until then they and the others do not understand each other", nodes))
	}
	return lines, cut
}
