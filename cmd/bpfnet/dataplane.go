// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/node"
)

// setPatience is how long a change may take before something is said.
const setPatience = 2 * time.Second

func newDataplaneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dataplane",
		Short: "Show or change who carries this node's packets",
	}
	cmd.AddCommand(newDataplaneGetCommand(), newDataplaneSetCommand())
	return cmd
}

func newDataplaneGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Print the dataplane of this node's daemon: ebpf or netlink",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := fetchStatus(cmd)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), s.Dataplane)
			return err
		},
	}
}

func newDataplaneSetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set ebpf|netlink",
		Short: "Change the dataplane of this node's daemon, losing no packet",
		Long: "Changes the dataplane of the running daemon and returns when packets go by the new one\n" +
			"alone; where it cannot be had, such as ipip by a kernel without that device, all stays as it\n" +
			"was. The daemon starts with --dataplane again when it is restarted.",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{string(node.EBPF), string(node.Netlink)},
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := node.ParseDataplane(args[0])
			if err != nil {
				return err
			}
			runDir, err := cmd.Flags().GetString("run-dir")
			if err != nil {
				return err
			}
			patience := time.AfterFunc(setPatience, func() {
				cmd.PrintErrln("bpfnet: waiting for the daemon: its log says what holds the change up (it needs etcd for one)")
			})
			defer patience.Stop()
			return node.SetDataplane(cmd.Context(), runDir, d)
		},
	}
}
