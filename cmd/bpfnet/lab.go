// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/test/lab"
)

func newLabCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Try bpfnet on hosts made of network namespaces",
		Long: "Hosts made of network namespaces on this machine, each with an uplink, containers and a\n" +
			"daemon of its own. The first host's daemon serves etcd to all.",
		Args:              cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return labNeeds() },
	}
	name := cmd.PersistentFlags().String("name", lab.Defaults().Name, "name of the lab")
	cmd.AddCommand(newLabUpCommand(name), newLabDownCommand(name), newLabExecCommand(name), newLabStatusCommand(name))
	return cmd
}

// labNeeds tells what a lab needs and this process lacks.
func labNeeds() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: run with sudo")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("needs the command ip: install the package iproute2")
	}
	return nil
}

func newLabUpCommand(name *string) *cobra.Command {
	o := lab.Defaults()
	var noDaemon bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring a lab up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o.Name = *name
			o.Progress = func(step string) { fmt.Fprintln(cmd.OutOrStdout(), step) }
			if o.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			return labUp(cmd, o, !noDaemon)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Hosts, "hosts", o.Hosts, "number of hosts")
	flags.IntVar(&o.Containers, "containers", o.Containers, "number of containers on each host")
	flags.StringVar((*string)(&o.Backend), "backend", string(o.Backend), "vxlan, ipip, udp or host-gw")
	flags.StringVar((*string)(&o.Dataplane), "dataplane", string(o.Dataplane), "of the daemons: ebpf or netlink")
	flags.StringVar((*string)(&o.Underlay), "underlay", string(o.Underlay),
		"flat (one segment) or routed (a segment for each host, a router between)")
	flags.StringVar((*string)(&o.Wiring), "wiring", string(o.Wiring),
		"of the containers: bridged, or perlink (routed links, as Calico's)")
	flags.StringVar((*string)(&o.Inner), "inner", string(o.Inner), "addresses of the containers: ipv4, ipv6 or dual")
	flags.StringVar((*string)(&o.Outer), "outer", string(o.Outer), "addresses of the hosts, likewise")
	flags.BoolVar(&noDaemon, "no-daemon", false, "make hosts and containers only")
	return cmd
}

func labUp(cmd *cobra.Command, o lab.Options, daemons bool) error {
	outliveReader()
	start := time.Now()
	l, err := lab.Up(cmd.Context(), o)
	if errors.Is(err, lab.ErrUp) {
		return fmt.Errorf("lab %q is up already: take it down (bpfnet lab down%s), or give another --name", o.Name, nameFlag(o.Name))
	}
	if err != nil {
		return err
	}
	if daemons {
		err = l.StartDaemons(cmd.Context())
	}
	if err == nil {
		err = l.Keep()
	}
	if err != nil {
		return errors.Join(err, l.Down())
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Lab %q is up after %.1f s. ", o.Name, time.Since(start).Seconds())
	printLabHints(cmd, l, daemons)
	return nil
}

// outliveReader keeps a closed pipe from ending the process before it has
// cleaned up. (A signal that is caught, not ignored, is nothing that daemons inherit.)
func outliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// printLabHints shows what can be done with a lab.
func printLabHints(cmd *cobra.Command, l *lab.Lab, daemons bool) {
	w, name := cmd.OutOrStdout(), nameFlag(l.Options.Name)
	fmt.Fprintln(w, "Try:")
	first, last := l.Hosts[0], l.Hosts[len(l.Hosts)-1]
	if daemons && len(first.Containers) > 0 && first != last {
		for _, f := range l.Options.Inner.Each() {
			fmt.Fprintf(w, "  bpfnet lab exec%s h1/c1 -- ping -c 4 %s\n", name, last.Containers[0].In(f))
		}
	}
	fmt.Fprintf(w, "  bpfnet lab status%s\n", name)
	if daemons {
		fmt.Fprintf(w, "  bpfnet maps dump --run-dir %s\n", first.Dir)
	}
	fmt.Fprintf(w, "  bpfnet lab down%s\n", name)
}

// nameFlag is the flag for a lab that has not the default name.
func nameFlag(name string) string {
	if name == lab.Defaults().Name {
		return ""
	}
	return " --name " + name
}

func newLabDownCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take a lab down, or what is left of one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := lab.Down(*name); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Lab %q is down.\n", *name)
			return nil
		},
	}
}

func newLabExecCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec HOST[/CONTAINER] -- COMMAND...",
		Short: "Run a command on a host or in a container",
		Example: "  bpfnet lab exec h1/c1 -- ping 172.246.0.2\n" +
			"  bpfnet lab exec h2 -- tcpdump -ni eth0\n" +
			"  bpfnet lab exec h1/c1            # a shell",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := openLab(*name)
			if err != nil {
				return err
			}
			n, err := l.Find(args[0])
			if err != nil {
				return err
			}
			return replaceSelf(n, args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false) // the command's flags are its own
	return cmd
}

// replaceSelf lets a command have this process, with its terminal and signals.
func replaceSelf(n lab.Namespace, command []string) error {
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		command = []string{"sh"}
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	args := append([]string{"ip", "netns", "exec", string(n)}, command...)
	if err := syscall.Exec(ip, args, os.Environ()); err != nil {
		return fmt.Errorf("run %q: %w", strings.Join(command, " "), err)
	}
	return nil
}

func openLab(name string) (*lab.Lab, error) {
	l, err := lab.Open(name)
	if errors.Is(err, lab.ErrNotUp) {
		return nil, fmt.Errorf("lab %q is not up: bpfnet lab up%s brings it up", name, nameFlag(name))
	}
	return l, err
}
