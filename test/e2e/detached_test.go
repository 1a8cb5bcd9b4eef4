// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestProgramsDetached takes all programs off both hosts by hand, while no
// daemon runs, under two pings of 1,000/s that cross: what the kernel has been
// told beside them carries on, and when daemons are back, so are the programs.
//
//	as in TestRestart
func TestProgramsDetached(t *testing.T) {
	forEach(t, modesOf(node.EBPF, topology.EncapVXLAN, topology.EncapNone), nil, func(t *testing.T, l *lab.Lab) {
		there, back := crossing(t, l.Hosts[0], l.Hosts[1])
		for _, h := range slices.Backward(l.Hosts) { // the first serves etcd
			noError(t, h.StopDaemon(t.Context()))
			detach(t, h)
		}
		there.more(200)
		back.more(200)
		request, reply := carriedByKernel(t, l)
		for _, p := range []lab.Packet{request, reply} {
			if d := lab.Decode(p); len(d.VXLAN) > 0 && d.UDP[0].Checksum == 0 {
				t.Errorf("not by the kernel's device: %q", describe(p))
			}
		}
		noError(t, lab.TransferTCP(t.Context(), l.Hosts[0].NS, l.Hosts[1].Containers[0].NS, l.Hosts[1].Containers[0].Addr, 8<<20))
		for _, h := range l.Hosts {
			noError(t, h.StartDaemon(t.Context()))
		}
		for _, h := range l.Hosts {
			waitPeers(t, h, 1)
			waitAttached(t, l, h, "tcx")
		}
		there.more(100)
		there.lossless()
		back.lossless()
	})
}

// detach removes the pins of a host's links, each of which takes its program off
// some time after. from_overlay goes first: it drops what from_network has not marked.
func detach(t *testing.T, h *lab.Host) {
	t.Helper()
	for _, program := range []string{"from_overlay", ""} {
		forEachPin(t, h, "links", func(name, path string) {
			if strings.HasPrefix(name, program) {
				noError(t, os.Remove(path))
			}
		})
		until(t, h.Name+" has no "+program, func() (bool, error) {
			return !slices.ContainsFunc(attached(t, h), func(p string) bool { return strings.Contains(p, program) }), nil
		})
	}
}

// carriedByKernel is a ping of large packets as it was on h1's uplink, told from others by its length.
func carriedByKernel(t *testing.T, l *lab.Lab) (request, reply lab.Packet) {
	t.Helper()
	const size = 777
	c := capture(t, l.Hosts[0].NS, lab.Uplink)
	ping(t, l.Hosts[0].Containers[0].NS, l.Hosts[1].Containers[0].Addr, lab.PingOptions{Count: 1, Size: size})
	for _, p := range stop(t, c) {
		if p.Len != 14+l.Options.Overhead()+28+size {
			continue
		}
		if p.Outgoing {
			request = p
		} else {
			reply = p
		}
	}
	if request.Len == 0 || reply.Len == 0 {
		t.Fatal("the ping is not on the wire")
	}
	return request, reply
}
