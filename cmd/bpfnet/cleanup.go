// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/blackhole"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/firewall"
	"github.com/bpfnet/bpfnet/controlplane/headroom"
	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/loader"
)

func newCleanupCommand() *cobra.Command {
	var handOver bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the datapath from this node",
		Long: "Removes what a daemon leaves in place when it stops: programs, pinned maps, the overlay\n" +
			"device, ports of bridges, routes, neighbours, FDB entries and firewall rules. Containers of other nodes are unreachable\n" +
			"afterwards. The lease in etcd stays, for this node to take up again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			runDir, err := cmd.Flags().GetString("run-dir")
			if err != nil {
				return err
			}
			pins, device := leftovers(runDir)
			if err = cleanup(runDir, handOver); err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), cleaned(runDir, pins, device))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&handOver, "hand-over", false,
		"leave the routes and, under flannel's name, the vxlan device, for flanneld to take up without a gap")
	return cmd
}

// leftovers tells what of a daemon's is there: pins of the run directory, in
// whichever network namespace it ran, and an overlay device in this one.
func leftovers(runDir string) (pins, device bool) {
	_, err := loader.PinDir(runDir)
	pins = err == nil
	for _, name := range netlink.Names() {
		if _, err = net.InterfaceByName(name); err == nil {
			device = true
		}
	}
	return pins, device
}

// cleaned says what that was, for to have looked in the wrong place is no error.
func cleaned(runDir string, pins, device bool) string {
	const elsewhere = "if the daemon ran in another network namespace, run cleanup there (ip netns exec NAME bpfnet cleanup)"
	switch {
	case pins && device:
		return "removed the programs and maps of " + runDir + ", and the overlay device"
	case pins: // in host-gw networks there is none
		return "removed the programs and maps of " + runDir + "; no overlay device is in this network namespace: " + elsewhere
	case device:
		return "removed the overlay device; no programs or maps are under " + runDir + ": if the daemon had another --run-dir, give that"
	}
	return "nothing of bpfnet was here: no programs or maps under " + runDir + ", no overlay device in this network namespace; " + elsewhere +
		", or give its --run-dir"
}

func cleanup(runDir string, handOver bool) error {
	unlock, err := node.Lock(runDir)
	if errors.Is(err, node.ErrAlreadyRunning) {
		return fmt.Errorf("a daemon is running on %s: stop it first", runDir)
	}
	if err != nil {
		return err
	}
	defer unlock()
	tables := netlink.Cleanup
	if handOver {
		tables = netlink.HandOver
	}
	return errors.Join(loader.Cleanup(runDir), tables(), firewall.Remove(), blackhole.Cleanup(), headroom.Cleanup(), removeRunDir(runDir))
}

// removeRunDir removes what a daemon has made in its run directory, and the
// directory where that was all: it may be anybody's (--run-dir /run), and
// others' files (an etcd's, subnet.env) lie beside ours.
func removeRunDir(runDir string) error {
	for _, name := range []string{node.SocketName, node.LockName} {
		if err := os.Remove(filepath.Join(runDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("clean run directory: %w", err)
		}
	}
	err := os.Remove(runDir)
	if err == nil || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) { // EBUSY: a mount of others
		return nil
	}
	return fmt.Errorf("remove run directory: %w", err)
}
