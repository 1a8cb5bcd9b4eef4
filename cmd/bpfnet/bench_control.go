// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/bench/control"
	"github.com/bpfnet/bpfnet/test/bench/report"
)

func newBenchControlCommand() *cobra.Command {
	var o control.Options
	var output string
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Measure what a large cluster costs one node's daemon",
		Long: "Puts the leases of a cluster into an etcd, starts a daemon on a host made of a network namespace,\n" +
			"and measures how long it takes to serve all of them, how long a change takes from etcd to the map,\n" +
			"and what memory and CPU that needs. Have the machine do nothing else meanwhile.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err = labNeeds(); err != nil {
				return err
			}
			write, ok := map[string]func(io.Writer, *control.Report) error{"table": report.ControlTable, "json": report.ControlJSON}[output]
			if !ok {
				return fmt.Errorf("unknown output format %q: table or json", output)
			}
			if o.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			r, err := withProgress(cmd, func(ctx context.Context, show func(bench.Step)) (*control.Report, error) {
				o.Progress = show
				return control.Run(ctx, o)
			})
			if err != nil {
				return err
			}
			return write(cmd.OutOrStdout(), r)
		},
	}
	flags := cmd.Flags()
	flags.IntSliceVar(&o.Nodes, "nodes", []int{100, 1_000, 10_000, 100_000}, "clusters to measure, by their number of nodes")
	flags.IntVar(&o.Rate, "rate", 100, "changes a second")
	flags.IntVar(&o.Changes, "changes", 1000, "changes in all")
	flags.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func newBenchEtcdCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "etcd DIRECTORY",
		Short:  "Be the etcd of bench control, until standard input ends",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return control.ServeEtcd(context.WithoutCancel(cmd.Context()), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
