// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

func newBenchAgentCommand() *cobra.Command {
	var listenOnly bool
	cmd := &cobra.Command{
		Use:    "agent",
		Short:  "Run one end of a load, as told on standard input",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return traffic.Serve(cmd.InOrStdin(), cmd.OutOrStdout(), listenOnly)
		},
	}
	cmd.Flags().BoolVar(&listenOnly, "listen-only", false, "refuse to be the end that dials")
	return cmd
}

func newBenchServeCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Be the listening end of a benchmark between two hosts",
		Long: "Waits for bench run on another host and does what that one says: it opens ports on this host's\n" +
			"addresses, and answers or counts what comes. It sends nothing to anybody else. Whoever reaches the\n" +
			"port can load this machine: stop it (ctrl-c) when you are done.\n\n" +
			"The loads use ports of the kernel's choice: a firewall between the hosts must let them through.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			l, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return fmt.Errorf("listen for bench run: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Waiting on %s for: bpfnet bench run --to THIS-HOST --target NAME=ADDRESS\n", l.Addr())
			return bench.Serve(cmd.Context(), l, binary, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", fmt.Sprintf(":%d", bench.Port), "address and port to wait on")
	return cmd
}

func newBenchRunCommand() *cobra.Command {
	f := &benchFlags{}
	var to string
	var targets []string
	cmd := &cobra.Command{
		Use:   "run --target NAME=ADDRESS...",
		Short: "Measure the way to another host, where bench serve runs",
		Long: "Measures the same loads to each of the addresses given, which are all of the host where bench serve\n" +
			"runs: its own and, say, that of its bridge in the overlay. The name of a target is its mode in the\n" +
			"report. Called host and netlink-vxlan, they are what others are compared with.\n\n" +
			"Between containers, run both ends inside them (ip netns exec, docker exec); without --to, each target\n" +
			"is asked at its own address.",
		Example: "  host2# bpfnet bench serve\n" +
			"  host1# bpfnet bench run --to 192.168.32.246 --target host=192.168.32.246 --target overlay=172.246.0.1",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(cmd)
			if err != nil {
				return err
			}
			t, err := parseTargets(targets, to)
			if err != nil {
				return err
			}
			return f.report(cmd, o, func(ctx context.Context, o bench.Options) (*bench.Report, error) {
				return bench.RunTo(ctx, o, t)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", fmt.Sprintf("where bench serve is reached, HOST or HOST:PORT (default: each target's address, port %d)", bench.Port))
	cmd.Flags().StringArrayVar(&targets, "target", nil, "what to measure, NAME=ADDRESS; can be given more than once")
	f.register(cmd)
	return cmd
}

// parseTargets reads NAME=ADDRESS, each with where its host is controlled.
func parseTargets(values []string, to string) ([]bench.Target, error) {
	if len(values) == 0 {
		return nil, errors.New("nothing to measure: give --target NAME=ADDRESS, such as --target host=192.168.32.246")
	}
	var all []bench.Target
	seen := map[string]bool{}
	for _, v := range values {
		name, address, _ := strings.Cut(v, "=")
		addr, err := netip.ParseAddr(address)
		if name == "" || err != nil {
			return nil, fmt.Errorf("--target %q: give NAME=ADDRESS, such as host=192.168.32.246", v)
		}
		if addr.Zone() != "" {
			return nil, fmt.Errorf("--target %q: give an address that holds on both hosts, not one of a link", v)
		}
		if addr.IsUnspecified() || addr.IsMulticast() {
			return nil, fmt.Errorf("--target %q: give an address of the other host", v)
		}
		if seen[name] {
			return nil, fmt.Errorf("--target %s is given twice", name)
		}
		seen[name] = true
		all = append(all, bench.Target{Name: name, Addr: addr, Control: controlAt(to, addr)})
	}
	return all, nil
}

// controlAt is where bench serve is reached: at to, if that is given.
func controlAt(to string, addr netip.Addr) string {
	if to == "" {
		to = addr.String()
	}
	if _, _, err := net.SplitHostPort(to); err == nil {
		return to
	}
	return net.JoinHostPort(strings.Trim(to, "[]"), fmt.Sprint(bench.Port))
}
