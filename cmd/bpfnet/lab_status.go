// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// labStatus is what `lab status -o json` prints.
type labStatus struct {
	Name     string          `json:"name"`
	Backend  string          `json:"backend"`
	Underlay string          `json:"underlay"`
	Wiring   string          `json:"wiring"`
	Etcd     string          `json:"etcd"`
	Hosts    []labHostStatus `json:"hosts"`
}

type labHostStatus struct {
	Name       string         `json:"name"`
	Namespace  lab.Namespace  `json:"namespace"`
	Addr       netip.Addr     `json:"address"`
	Subnet     netip.Prefix   `json:"subnet"`
	Addr6      netip.Addr     `json:"address6,omitzero"`
	Subnet6    netip.Prefix   `json:"subnet6,omitzero"`
	RunDir     string         `json:"run_dir"`
	Alive      bool           `json:"daemon_alive"`
	Daemon     *node.Status   `json:"daemon"` // null where it does not answer
	Containers []labContainer `json:"containers"`
}

type labContainer struct {
	Name      string        `json:"name"`
	Namespace lab.Namespace `json:"namespace"`
	Addr      netip.Addr    `json:"address"`
	Addr6     netip.Addr    `json:"address6,omitzero"`
}

func newLabStatusCommand(name *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show a lab's hosts and containers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := map[string]func(io.Writer, labStatus) error{"table": printLabStatus, "json": encodeLabStatus}[output]
			if !ok {
				return fmt.Errorf("unknown output format %q: table or json", output)
			}
			l, err := openLab(*name)
			if err != nil {
				return err
			}
			return write(cmd.OutOrStdout(), statusOfLab(cmd.Context(), l))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func statusOfLab(ctx context.Context, l *lab.Lab) labStatus {
	s := labStatus{
		Name:     l.Options.Name,
		Backend:  string(l.Options.Backend),
		Underlay: string(l.Options.Underlay),
		Wiring:   string(l.Options.Wiring),
		Etcd:     l.Endpoints(),
	}
	for _, h := range l.Hosts {
		hs := labHostStatus{
			Name: h.Name, Namespace: h.NS, Addr: h.Addr, Subnet: h.Subnet, Addr6: h.Addr6, Subnet6: h.Subnet6,
			RunDir: h.Dir, Alive: h.DaemonAlive(),
		}
		if d, err := h.DaemonStatus(ctx); err == nil {
			hs.Daemon = &d
		}
		for _, c := range h.Containers {
			hs.Containers = append(hs.Containers, labContainer{c.Name, c.NS, c.Addr, c.Addr6})
		}
		s.Hosts = append(s.Hosts, hs)
	}
	return s
}

func printLabStatus(w io.Writer, s labStatus) error {
	fmt.Fprintf(w, "lab %s: backend %s, %s underlay, containers %s, etcd at %s\n\n",
		s.Name, s.Backend, s.Underlay, s.Wiring, s.Etcd)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tADDRESS\tSUBNET\tCONTAINERS\tDAEMON\tMODE\tPEERS")
	for _, h := range s.Hosts {
		var containers []string
		for _, c := range h.Containers {
			containers = append(containers, c.Name+" "+both(c.Addr, c.Addr6))
		}
		daemon, mode, peers := daemonCells(h)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			h.Name, both(h.Addr, h.Addr6), both(h.Subnet, h.Subnet6), strings.Join(containers, ", "), daemon, mode, peers)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, h := range s.Hosts {
		if h.Daemon == nil {
			continue
		}
		for _, p := range h.Daemon.Problems {
			fmt.Fprintf(w, "problem on %s: %s %s: %s\n", h.Name, p.Source, p.Key, p.Text)
		}
	}
	return nil
}

func encodeLabStatus(w io.Writer, s labStatus) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(s)
}

func daemonCells(h labHostStatus) (daemon, mode, peers string) {
	switch {
	case !h.Alive:
		return "not running", "-", "-"
	case h.Daemon == nil:
		return "does not answer", "-", "-"
	case !h.Daemon.Ready:
		daemon = "not ready"
	default:
		daemon = "ready"
	}
	return daemon, h.Daemon.Backend, fmt.Sprint(len(h.Daemon.Peers))
}
