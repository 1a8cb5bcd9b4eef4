// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/node"
)

func newStatusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon of this node serves, and what is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := fetchStatus(cmd)
			if err != nil {
				return err
			}
			switch output {
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			case "table":
				return printStatus(cmd.OutOrStdout(), s)
			}
			return fmt.Errorf("unknown output format %q: table or json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// fetchStatus asks the daemon of the command's --run-dir.
func fetchStatus(cmd *cobra.Command) (node.Status, error) {
	runDir, err := cmd.Flags().GetString("run-dir")
	if err != nil {
		return node.Status{}, err
	}
	return node.FetchStatus(cmd.Context(), runDir)
}

func printStatus(w io.Writer, s node.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) } // errors come with Flush
	row("ready\t%t", s.Ready)
	if s.Subnet.IsValid() || s.Subnet6.IsValid() {
		printServed(row, s)
	}
	for _, p := range s.Problems {
		row("problem: %s: %s", strings.TrimSpace(p.Source+" "+p.Key), p.Text)
	}
	return t.Flush()
}

// printServed is what there is to tell once there is a network.
func printServed(row func(format string, args ...any), s node.Status) {
	row("node\t%s", strings.ReplaceAll(both(s.Node, s.Node6), ",", ", "))
	for _, subnet := range []struct{ own, network netip.Prefix }{{s.Subnet, s.Network}, {s.Subnet6, s.Network6}} {
		if subnet.own.IsValid() {
			row("subnet\t%s of %s", subnet.own, subnet.network)
		}
	}
	row("backend\t%s, container MTU %d", s.Backend, s.MTU)
	row("dataplane\t%s", s.Dataplane)
	if s.Dataplane == node.EBPF { // the kernel finds them by itself
		row("containers\t%d found, %d addresses known", s.Containers, s.Endpoints)
	}
	if v := s.KernelView; v != nil {
		row("kernel view\t%d of %d peers written", v.Written, v.Peers)
	}
	if s.XDP != nil {
		row("xdp\t%s", s.XDP)
	}
	if c := s.Copied; c != nil {
		row("copied\t%d packets sent, %d delivered, dropped: %s", c.Sent, c.Delivered, printDrops(c.Drops))
	}
	if s.Dropped != nil {
		row("dropped\t%s", printDrops(s.Dropped))
	}
	row("etcd revision\t%d", s.Revision)
	row("")
	row("PEER\tSUBNET\tENCAPSULATION\tNEXT HOP\tVTEP MAC")
	for _, p := range s.Peers {
		row("%s\t%s\t%s\t%s\t%s", p.Node, p.Subnet, p.Encap, p.NextHop, p.VTEPMAC)
	}
	if len(s.Problems) > 0 {
		row("")
	}
}

// printDrops is the packets dropped by reason, in one line.
func printDrops(drops map[string]uint64) string {
	if len(drops) == 0 {
		return "none"
	}
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(drops)) {
		all = append(all, fmt.Sprintf("%d %s", drops[reason], reason))
	}
	return strings.Join(all, ", ")
}
