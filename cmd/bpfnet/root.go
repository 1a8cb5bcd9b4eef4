// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

// defaultRunDir is where a daemon keeps its pins, control socket and state.
const defaultRunDir = "/run/bpfnet"

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "bpfnet",
		Short: "A container overlay network whose dataplane is eBPF",
		Long: "bpfnet gives the containers of many hosts one network, as flannel does and from the same\n" +
			"records in etcd, with encapsulation and routing done by eBPF programs.",
		SilenceUsage:  true, // an error is one line
		SilenceErrors: true, // main prints it
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagsFromEnv(cmd.Root().PersistentFlags())
		},
	}
	root.PersistentFlags().String("run-dir", defaultRunDir, "directory of everything a daemon keeps")
	root.AddCommand(
		newDaemonCommand(),
		newStatusCommand(),
		newDataplaneCommand(),
		newConfigCommand(),
		newLeaseCommand(),
		newMapsCommand(),
		newLabCommand(),
		newDemoCommand(),
		newBenchCommand(),
		newCleanupCommand(),
		newVersionCommand(),
	)
	return root
}
