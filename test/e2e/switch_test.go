// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestSwitchDataplane changes the dataplane of one host after the other, and
// back, under two pings of 1,000/s that cross (SCENARIOS E1). What the one dataplane
// made is gone when the other carries.
//
//	as in TestRestart
func TestSwitchDataplane(t *testing.T) {
	forEach(t, modesOf(node.EBPF, switchable...), nil, func(t *testing.T, l *lab.Lab) {
		there, back := crossing(t, l.Hosts[0], l.Hosts[1])
		for range 3 {
			for _, d := range []node.Dataplane{node.Netlink, node.EBPF} {
				for _, h := range l.Hosts {
					bpfnet(t, h, "dataplane", "set", string(d))
					if got := bpfnet(t, h, "dataplane", "get"); got != string(d)+"\n" {
						t.Errorf("the dataplane of %s is %q, want %s", h.Name, got, d)
					}
					l.Options.Dataplane = d
					waitAttached(t, l, h, "tcx")
					equal(t, "overlay devices", wantDevices[modeOf(l).device()], overlayDevices(t, h))
					there.more(20)
					back.more(20)
				}
			}
		}
		there.lossless()
		back.lossless()
	})
}

// TestSwitchByRestart is the same, by daemons that are ended and started with
// the other flag. A udp network is not among them: its netlink dataplane is the
// daemon itself.
func TestSwitchByRestart(t *testing.T) {
	forEach(t, modesOf(node.EBPF, topology.EncapVXLAN, topology.EncapNone), nil, func(t *testing.T, l *lab.Lab) {
		there, back := crossing(t, l.Hosts[0], l.Hosts[1])
		for _, d := range []node.Dataplane{node.Netlink, node.EBPF} {
			for _, h := range l.Hosts[1:] { // the first serves etcd
				noError(t, h.StopDaemon(t.Context()))
				noError(t, h.StartDaemon(t.Context(), "--dataplane", string(d)))
				there.more(20)
				back.more(20)
			}
		}
		there.lossless()
		back.lossless()
	})
}
