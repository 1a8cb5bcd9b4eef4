// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestBridgeHeadroom: with --bridge-headroom the containers' bridge has a port of
// the daemon's, which is put back, adopted, and goes with the flag or by cleanup.
func TestBridgeHeadroom(t *testing.T) {
	for _, dataplane := range []node.Dataplane{node.EBPF, node.Netlink} {
		t.Run(string(dataplane), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Dataplane = dataplane })
			h1, h2 := l.Hosts[0], l.Hosts[1]
			noError(t, os.RemoveAll(h2.Dir))
			before := hostState(t, h2)
			serveAgain(t, l, "--bridge-headroom", "--iptables-resync=1")
			reached := func() {
				t.Helper()
				ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 2, Size: l.Options.ContainerMTU() - icmpHeaders[lab.V4], DF: true})
			}
			reached()
			first := headroomPort(t, h2)
			if first == "" {
				t.Fatalf("%s has no port of the daemon's", h2.Bridge)
			}
			restart := func(args ...string) {
				t.Helper()
				noError(t, h2.StopDaemon(t.Context()))
				serveAgain(t, l, args...)
				reached()
			}
			restart("--bridge-headroom", "--iptables-resync=1")
			equal(t, "port after a restart", first, headroomPort(t, h2))
			run(t, h2.NS, "ip", "link", "delete", strings.Split(strings.Fields(first)[1], ":")[0])
			until(t, "the port is put back", func() (bool, error) { return headroomPort(t, h2) != "", nil })
			restart()
			equal(t, "port without the flag", "", headroomPort(t, h2))
			restart("--bridge-headroom")
			noError(t, h2.StopDaemon(t.Context()))
			reached()
			bpfnet(t, h2, "cleanup")
			equal(t, "state of "+h2.Name, before, hostState(t, h2))
		})
	}
}

// headroomPort is the line of `ip link` on the daemon's port of a host's bridge; "" for none.
func headroomPort(t *testing.T, h *lab.Host) string {
	t.Helper()
	return strings.Join(lines(run(t, h.NS, "ip", "-o", "link", "show", "type", "vxlan", "master", h.Bridge)), "\n")
}
