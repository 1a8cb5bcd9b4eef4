// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The kernel is to ask for who has just ceased to answer, and for who is to be told its gateway's new MAC.
func TestAsk(t *testing.T) {
	lowered, forgot := is(bridge(1, macLow)), arpAge(1, ipA, macA)
	tests := map[string]struct {
		events []event
		want   []netip.Addr
	}{
		"well":                 {},
		"silent":               {events: []event{arpFailed(1, ipA)}, want: []netip.Addr{ipA}},
		"aged":                 {events: []event{forgot, fdbAge(macA, 10)}},
		"gateway changed":      {events: []event{lowered}, want: []netip.Addr{ipA, ipB}},
		"changed back":         {events: []event{lowered, is(bridge(1, macBridge))}, want: []netip.Addr{ipA, ipB}},
		"gateway went":         {events: []event{gone(bridge(1, macBridge))}},
		"another bridge's MAC": {events: []event{is(bridge(2, macLow))}},
		"told":                 {events: []event{lowered, arp(1, ipA, macA)}},
		"told, and renamed":    {events: []event{lowered, arp(1, ipA, macA), arp(1, ipB, macB), is(with(bridge(1, macLow), func(l *link) { l.name = "br0" }))}},
		"another is told":      {events: []event{lowered, arp(1, ipA, macA), is(with(bridge(1, macLow), func(l *link) { l.name = "br0" }))}, want: []netip.Addr{ipB}},
		"routed":               {events: []event{is(with(veth(20, 0), func(l *link) { l.mac = macLow }))}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(subnet, nil)
			for _, e := range append(node(), fdb(macA, 10), arp(1, ipA, macA), fdb(macB, 11), arp(1, ipB, macB), is(onLink(ipRouted, 20)), arp(20, ipRouted, macA)) {
				m.apply(e)
			}
			for _, e := range test.events {
				clear(m.ask) // done
				m.apply(e)
			}
			got := slices.SortedFunc(maps.Keys(m.ask), netip.Addr.Compare)
			if diff := cmp.Diff(test.want, got, compare...); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// What a container is not told by being asked it is not asked, for as long as it may take to ask by itself.
func TestSpare(t *testing.T) {
	m := newMachine(subnet, nil)
	for _, e := range append(node(), fdb(macA, 10), arp(1, ipA, macA), is(onLink(ipRouted, 20)), arp(20, ipRouted, macA)) {
		m.apply(e)
	}
	spared := func(want map[netip.Addr]bool) {
		t.Helper()
		for addr, want := range want {
			if got := m.spare(addr, m.endpoints[addr]); got != want {
				t.Errorf("%s spared: %t, want %t", addr, got, want)
			}
		}
	}
	spared(map[netip.Addr]bool{ipA: false, ipRouted: false})
	change := func(mac topology.MAC) {
		m.apply(is(with(veth(20, 0), func(l *link) { l.mac = mac })))
		m.apply(is(bridge(1, mac)))
	}
	change(macLow)
	for range sparings {
		spared(map[netip.Addr]bool{ipA: false, ipRouted: true})
	}
	spared(map[netip.Addr]bool{ipRouted: false})
	m.apply(arp(20, ipRouted, macA))
	spared(map[netip.Addr]bool{ipRouted: false})
	change(topology.MAC{0x06})
	spared(map[netip.Addr]bool{ipRouted: true})
	m.apply(gone(veth(20, 0)))
	if len(m.spared) > 0 {
		t.Errorf("left: %v", m.spared)
	}
}
