// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestNarrowRouter has a router between the hosts carry less than their uplinks.
// It tells the host that sent the outer packet; the container that sent the inner
// one has to be told what fits there, so that nothing it sends disappears.
//
//	h1 ── seg1, MTU 1500 ── router ── seg2, MTU 1400 ── h2
func TestNarrowRouter(t *testing.T) {
	const underlay = 1400
	forEach(t, modesOf(node.EBPF, topology.EncapIPIP, topology.EncapUDP), routed, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		run(t, l.Wire(), "ip", "link", "set", "seg2", "mtu", fmt.Sprint(underlay))
		from, to := h1.Containers[0], h2.Containers[0]
		full, fits := l.Options.ContainerMTU()-28, underlay-l.Options.Overhead()-28 // less IPv4 and ICMP headers
		c := capture(t, from.NS, "eth0")
		until(t, "the sender is told", func() (bool, error) {
			_, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 1, Size: full, DF: true, Timeout: 100 * time.Millisecond})
			if err != nil {
				return false, err
			}
			route, err := from.NS.Run(t.Context(), "ip", "route", "get", to.Addr.String())
			return err == nil && containsMTU(route, underlay-l.Options.Overhead()), err
		})
		for _, p := range stop(t, c) {
			if d := lab.Decode(p); !p.Outgoing && len(d.ICMP) > 0 && int(d.ICMP[0].Seq) != underlay-l.Options.Overhead() {
				t.Errorf("told %v, MTU %d", d.ICMP[0].TypeCode, d.ICMP[0].Seq)
			}
		}
		ping(t, from.NS, to.Addr, lab.PingOptions{Count: 3, Size: fits, DF: true})
		// Another container, which has been told nothing: TCP finds its way, in both directions.
		noError(t, lab.TransferTCP(t.Context(), h1.Containers[1].NS, to.NS, to.Addr, 4<<20))
		noError(t, lab.TransferTCP(t.Context(), to.NS, h1.Containers[1].NS, h1.Containers[1].Addr, 4<<20))
	})
}

func containsMTU(route string, mtu int) bool {
	return strings.Contains(route, fmt.Sprintf(" mtu %d", mtu))
}
