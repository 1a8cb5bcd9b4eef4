// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The fuzzed node is small, so that events often meet: bridges 1 and 2, veths 10
// to 12, a vxlan 13, four addresses of which one lies outside the subnet, and
// MACs among which are a bridge's, a multicast and the zero one.
var (
	fuzzDevs  = []int{1, 2, 10, 11, 12, 13}
	fuzzAddrs = []netip.Addr{ipBridge, ipA, ipB, netip.MustParseAddr("10.0.0.1")}
	fuzzMACs  = []topology.MAC{macA, macB, macBridge, macHost, {1, 0, 0x5e}, {}}
)

// fuzzEvent makes any four bytes an event, and tells whether it is the kernel
// forgetting a neighbour or an FDB entry.
func fuzzEvent(b [4]byte) (e event, aging bool) {
	dev := fuzzDevs[int(b[1])%len(fuzzDevs)]
	addr := fuzzAddrs[int(b[2])%len(fuzzAddrs)]
	mac := fuzzMACs[int(b[2]>>2)%len(fuzzMACs)]
	isGone := b[3]&1 != 0
	switch b[0] % 5 {
	case 0:
		return event{gone: b[3]&3 == 3, record: fuzzLink(dev, mac, b)}, false
	case 1:
		return event{gone: isGone, record: local(dev, addr)}, false
	case 2:
		r := hostRoute{addr: addr, ifindex: dev, metric: uint32(b[3] >> 2 & 1), onLink: b[3]&8 == 0}
		return event{gone: isGone, record: r}, false
	case 3:
		state := []uint16{unix.NUD_REACHABLE, unix.NUD_STALE, unix.NUD_FAILED, unix.NUD_INCOMPLETE}[b[3]>>1&3]
		if state&nudValid == 0 {
			mac = topology.MAC{}
		}
		forgotten := isGone || mac == (topology.MAC{}) && state != unix.NUD_FAILED
		return event{gone: isGone, record: neighbour{dev, addr, mac, state}}, forgotten
	default:
		port := fuzzDevs[int(b[3]>>1)%len(fuzzDevs)]
		return event{gone: isGone, record: fdbEntry{1 + int(b[1])%2, mac, port}}, isGone
	}
}

func fuzzLink(dev int, mac topology.MAC, b [4]byte) link {
	l := veth(dev, int(b[2])%3)
	switch {
	case dev <= 2:
		l = bridge(dev, mac)
	case dev == 13:
		l.kind = "vxlan"
	}
	l.up, l.carrier = b[3]&4 == 0, b[3]&12 == 0
	return l
}

// FuzzMachine holds that whatever the kernel says in whatever order, State is
// sound, holds what the tables say, and holds no more than they say where
// nothing has aged. Aging, at last, changes nothing.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 0, 8, 0, 1, 0, 0, 0, 0, 2, 1, 0, 4, 0, 0, 4, 3, 0, 1, 0}) // ipA behind port 10 of bridge 1
	f.Add([]byte{0, 2, 0, 0, 2, 2, 1, 0, 3, 2, 1, 0})                         // ipA routed on veth 10
	f.Add([]byte{0, 2, 0, 0, 3, 2, 1, 0, 2, 2, 1, 0, 1, 2, 2, 1})             // an address goes that was never told of
	f.Fuzz(func(t *testing.T, data []byte) {
		m, aged := newMachine(subnet, nil), false
		for b := range slices.Chunk(data, 4) {
			if len(b) < 4 {
				break
			}
			e, aging := fuzzEvent([4]byte(b))
			aged = aged || aging || m.readdressed(e) != 0
			m.apply(e)
			checkSound(t, m)
			checkTables(t, m, aged)
		}
		before := stateOf(m)
		for _, e := range agings(m.tables) {
			m.apply(e)
		}
		if diff := cmp.Diff(before, stateOf(m), compare...); diff != "" {
			t.Errorf("aging changed the state (-before +after):\n%s", diff)
		}
	})
}

func checkSound(t *testing.T, m *machine) {
	t.Helper()
	s := stateOf(m)
	for i, e := range s.Endpoints {
		if i > 0 && !s.Endpoints[i-1].Addr.Less(e.Addr) {
			t.Errorf("endpoints not sorted by distinct address: %v", s.Endpoints)
		}
		if !slices.ContainsFunc(s.Links, func(l Link) bool { return l.Ifindex == e.Ifindex }) {
			t.Errorf("endpoint %v on a link that is no container's: %v", e, s.Links)
		}
		l := m.links[e.Ifindex]
		if l.kind != "veth" || !l.away || !l.up || !l.carrier {
			t.Errorf("endpoint %v on %+v", e, l)
		}
		if !subnet.Contains(e.Addr) || m.own(e.Addr) {
			t.Errorf("endpoint %v has an address that no container can have", e)
		}
		if e.MAC == e.Gateway || e.MAC == (topology.MAC{}) || e.MAC[0]&1 != 0 {
			t.Errorf("endpoint %v has a MAC that no container can have", e)
		}
	}
	if !slices.IsSortedFunc(s.Links, func(a, b Link) int { return a.Ifindex - b.Ifindex }) {
		t.Errorf("links not sorted: %v", s.Links)
	}
}

// checkTables compares with a machine that sees the tables for the first time.
func checkTables(t *testing.T, m *machine, aged bool) {
	t.Helper()
	fresh := newMachine(subnet, nil)
	fresh.reset(m.tables)
	got, want := stateOf(m), stateOf(fresh)
	for addr, p := range m.endpoints { // a container may not have been told yet, which the tables do not say
		if m.told(addr, p.dev) && p.gateway != m.links[p.dev].mac {
			t.Errorf("%s knows that its gateway has the MAC %s, not %s", addr, m.links[p.dev].mac, p.gateway)
		}
	}
	if aged {
		got.Endpoints = slices.DeleteFunc(got.Endpoints, func(e Endpoint) bool { _, ok := fresh.endpoints[e.Addr]; return !ok })
	}
	if diff := cmp.Diff(want, got, append(compare, cmpopts.IgnoreFields(Endpoint{}, "Gateway"))...); diff != "" {
		t.Errorf("state is not what the tables say (aged: %v) (-tables +got):\n%s", aged, diff)
	}
}

// agings are the events of a kernel that forgets all it may forget.
func agings(t *tables) []event {
	var events []event
	for addr, devs := range t.neighs {
		for dev, n := range devs {
			if !n.failed {
				events = append(events, arpAge(dev, addr, n.mac))
			}
		}
	}
	for key, port := range t.fdb {
		events = append(events, gone(fdbEntry{key.bridge, key.mac, port}))
	}
	return events
}

// TestOrder holds that the order in which the kernel tells of different things
// does not matter.
func TestOrder(t *testing.T) {
	events := append(node(),
		fdb(macA, 10), arp(1, ipA, macA), fdb(macB, 11), arp(1, ipB, macB),
		is(onLink(ipRouted, 20)), arp(20, ipRouted, macA),
		arpFailed(1, netip.MustParseAddr("172.245.0.7")), fdb(macHost, 12), arp(1, netip.MustParseAddr("172.245.0.8"), macHost))
	want := []Endpoint{bridgedA(), bridgedB(), routed()}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		m := newMachine(subnet, nil)
		for _, e := range events {
			m.apply(e)
		}
		if diff := cmp.Diff(want, stateOf(m).Endpoints, compare...); diff != "" {
			t.Fatalf("seed %d, events %v: endpoints (-want +got):\n%s", seed, events, diff)
		}
	}
}
