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
	forEach(t, modesOf(node.EBPF, topology.EncapIPIP, topology.EncapUDP), routed, testNarrowRouter)
}

// TestNarrowRouterIPv6: likewise where IPv6 is inside, outside, or both. Nobody cuts it.
func TestNarrowRouterIPv6(t *testing.T) {
	forEachSite(t, tunnelled(sitesV6), routed, testNarrowRouter)
}

func testNarrowRouter(t *testing.T, l *lab.Lab) {
	const underlay = 1400
	f := l.Options.Inner
	h1, h2 := l.Hosts[0], l.Hosts[1]
	run(t, l.Wire(), "ip", "link", "set", "seg2", "mtu", fmt.Sprint(underlay))
	from, to := h1.Containers[0], h2.Containers[0]
	mtu := underlay - l.Options.Overhead()
	full, fits := l.Options.ContainerMTU()-icmpHeaders[f], mtu-icmpHeaders[f]
	c := capture(t, from.NS, "eth0")
	until(t, "the sender is told", func() (bool, error) {
		_, err := from.NS.Ping(t.Context(), to.In(f), lab.PingOptions{Count: 1, Size: full, DF: true, Timeout: 100 * time.Millisecond})
		if err != nil {
			return false, err
		}
		route, err := from.NS.Run(t.Context(), "ip", "route", "get", to.In(f).String())
		return err == nil && containsMTU(route, mtu), err
	})
	for _, e := range icmpErrors(t, stop(t, c)) {
		equal(t, "error to the sender", icmpError{From: h1.GatewayOf(f), What: "too big", MTU: mtu}, e, addresses)
	}
	ping(t, from.NS, to.In(f), lab.PingOptions{Count: 3, Size: fits, DF: true})
	// Another container, which has been told nothing: TCP finds its way, in both directions.
	other := h1.Containers[1]
	transfer(t, other.NS, to.NS, to.In(f), 4<<20)
	transfer(t, to.NS, other.NS, other.In(f), 4<<20)
}

func containsMTU(route string, mtu int) bool {
	return strings.Contains(route, fmt.Sprintf(" mtu %d", mtu))
}
