// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/containers"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

func TestApply(t *testing.T) {
	mac := func(n byte) topology.MAC { return topology.MAC{0xc6, 0, 0, 0, n, 0} }
	steps := []struct {
		name  string
		peers []topology.Peer
	}{
		{"nobody", nil},
		{"one", []topology.Peer{testPeer(topology.EncapVXLAN)}},
		{"another", []topology.Peer{
			testPeer(topology.EncapVXLAN), peerOf("172.247.0.0/24", "192.168.32.247", topology.EncapVXLAN, mac(3)),
		}},
		{"subnets longer and shorter than a slot, outside the index", []topology.Peer{
			peerOf("172.246.0.0/25", "192.168.32.246", topology.EncapVXLAN, mac(2)),
			peerOf("172.246.0.128/26", "192.168.32.247", topology.EncapVXLAN, mac(3)),
			peerOf("172.247.0.0/20", "192.168.32.248", topology.EncapVXLAN, mac(4)),
		}},
		{"two subnets on one node", []topology.Peer{
			peerOf("172.246.0.0/24", "192.168.32.246", topology.EncapVXLAN, mac(2)),
			peerOf("172.246.1.0/24", "192.168.32.246", topology.EncapVXLAN, mac(2)),
		}},
		{"plain to one of them", []topology.Peer{
			peerOf("172.246.0.0/24", "192.168.32.246", topology.EncapNone, mac(2)),
			peerOf("172.247.0.0/24", "192.168.32.247", topology.EncapVXLAN, mac(3)),
		}},
		{"nodes exchange their subnets", []topology.Peer{
			peerOf("172.246.0.0/24", "192.168.32.247", topology.EncapVXLAN, mac(3)),
			peerOf("172.247.0.0/24", "192.168.32.246", topology.EncapNone, mac(2)),
		}},
		{"nobody again", nil},
	}
	r := newRig(t, nil)
	d := r.dataplane(t)
	for _, step := range steps {
		s := stateOf(step.peers...)
		apply(t, d, s)
		if diff := r.diff(t, s); diff != "" {
			t.Fatalf("%s: maps (-want +got):\n%s", step.name, diff)
		}
	}
}

// TestApplyTwiceWritesNothing: the second Apply, and those of a new daemon, on
// maps that cannot be written to.
func TestApplyTwiceWritesNothing(t *testing.T) {
	s := stateOf(
		testPeer(topology.EncapVXLAN),
		peerOf("172.246.1.0/24", "192.168.32.246", topology.EncapVXLAN, peerMAC),
		peerOf("172.247.0.0/25", "192.168.32.247", topology.EncapVXLAN, topology.MAC{0xc6, 0, 0, 0, 3, 0}),
		peerOf("172.247.1.0/24", "192.168.32.248", topology.EncapNone, topology.MAC{}),
	)
	found := []containers.Endpoint{
		{Addr: netip.MustParseAddr("172.245.0.2"), Ifindex: 5, MAC: topology.MAC{2, 5}, Gateway: topology.MAC{2, 1}},
	}
	r := newRig(t, nil)
	d := r.dataplane(t)
	must(t, d.Apply(s))
	must(t, mustGet[*Endpoints](t)(NewEndpoints(r.set, 0)).Apply(found))
	r.freeze(t)

	if err := d.Apply(s); err != nil {
		t.Errorf("the second Apply writes: %v", err)
	}
	if err := r.dataplane(t).Apply(s); err != nil {
		t.Errorf("a new daemon writes: %v", err)
	}
	endpoints := mustGet[*Endpoints](t)(NewEndpoints(r.set, 0))
	if err := endpoints.Apply(found); err != nil {
		t.Errorf("a new daemon writes endpoints: %v", err)
	}
	r.check(t, s)

	// That a write would have been noticed:
	if err := endpoints.Apply(nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("error %v of a write to a frozen endpoints map, want EPERM", err)
	}
	if err := d.Apply(stateOf()); !errors.Is(err, unix.EPERM) {
		t.Errorf("error %v of writes to frozen maps, want EPERM", err)
	}
}

func TestChangedPeerGetsNewIndex(t *testing.T) {
	tests := map[string]func(*topology.Peer){
		"VTEP MAC": func(p *topology.Peer) { p.VTEP.MAC[5] = 9 },
		"node": func(p *topology.Peer) {
			p.Node, p.Path.NextHop = netip.MustParseAddr("192.168.32.9"), netip.MustParseAddr("192.168.32.9")
		},
		"next hop":      func(p *topology.Peer) { p.Path.NextHop = netip.MustParseAddr("192.168.32.1") },
		"uplink":        func(p *topology.Peer) { p.Path.Ifindex++ },
		"path MTU":      func(p *topology.Peer) { p.Path.MTU -= 100 },
		"encapsulation": func(p *topology.Peer) { p.Encap, p.VTEP = topology.EncapNone, topology.VTEP{} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			d := r.dataplane(t)
			other := peerOf("172.247.0.0/24", "192.168.32.247", topology.EncapVXLAN, topology.MAC{0xc6, 0, 0, 0, 3, 0})
			peer := testPeer(topology.EncapVXLAN)
			must(t, d.Apply(stateOf(peer, other)))
			index, otherIndex := r.index(t, "172.246.0.0/24"), r.index(t, "172.247.0.0/24")

			change(&peer)
			s := stateOf(peer, other)
			apply(t, d, s)
			r.check(t, s)
			if now := r.index(t, "172.246.0.0/24"); now == index {
				t.Errorf("the changed peer's entry %d was changed in place", index)
			}
			if now := r.index(t, "172.247.0.0/24"); now != otherIndex {
				t.Errorf("the other peer's entry moved from %d to %d", otherIndex, now)
			}
		})
	}
}

// TestIndexReuse: a freed place waits until all that were free before it are used.
func TestIndexReuse(t *testing.T) {
	r := newRig(t, sizes{"hosts": 6}) // 2 to 5 are for peers
	d := r.dataplane(t)
	peer := func(n int) topology.Peer {
		return peerOf(fmt.Sprintf("172.246.%d.0/24", n), fmt.Sprintf("192.168.33.%d", n), topology.EncapNone, topology.MAC{})
	}
	steps := []struct {
		peers []int
		want  map[int]uint32
	}{
		{[]int{1, 2}, map[int]uint32{1: 2, 2: 3}},
		{[]int{2}, map[int]uint32{2: 3}},
		{[]int{2, 3}, map[int]uint32{2: 3, 3: 4}},
		{[]int{3}, map[int]uint32{3: 4}},
		{[]int{3, 4, 5, 6}, map[int]uint32{3: 4, 4: 5, 5: 2, 6: 3}},
	}
	for _, step := range steps {
		s := stateOf()
		for _, n := range step.peers {
			s.Peers = append(s.Peers, peer(n))
		}
		apply(t, d, s)
		r.check(t, s)
		for n, index := range step.want {
			if got := r.index(t, peer(n).Subnet.String()); got != index {
				t.Errorf("with peers %v, peer %d has entry %d, want %d", step.peers, n, got, index)
			}
		}
	}
}

// TestChangedVNI: the entries of the old one go.
func TestChangedVNI(t *testing.T) {
	r := newRig(t, nil)
	s := stateOf(testPeer(topology.EncapVXLAN))
	must(t, r.dataplane(t).Apply(s))
	s.Self.VNI = 77
	apply(t, mustGet[*Dataplane](t)(New(r.set, 0, 77)), s)
	r.check(t, s)
}

// TestOneFailureDoesNotHoldUpTheRest: a map that cannot be written to, and a
// peer that cannot be served.
func TestOneFailureDoesNotHoldUpTheRest(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	good, odd := testPeer(topology.EncapVXLAN), peerOf("172.247.0.0/24", "192.168.32.247", "gre", topology.MAC{})
	r.freeze(t, "fdb")
	err := d.Apply(stateOf(good, odd))
	if err == nil || !strings.Contains(err.Error(), `serve lease 172.247.0.0-24: build outer header: unknown encapsulation "gre"`) {
		t.Errorf("error %v does not tell of the peer", err)
	}
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "in map fdb") {
		t.Errorf("error %v does not tell of the map", err)
	}
	want, got := wantContent(t, stateOf(good)), r.content(t)
	if got.Routes[good.Subnet] != want.Routes[good.Subnet] || got.Nodes[good.Node] != want.Nodes[good.Node] || len(got.Neigh) != 1 {
		t.Errorf("the good peer is not served: %+v", got)
	}
}

// TestRefusedPeerKeepsWhatItHad: node, MAC and encapsulation changed at once to what cannot be written.
func TestRefusedPeerKeepsWhatItHad(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	peer := testPeer(topology.EncapVXLAN)
	before := stateOf(peer)
	must(t, d.Apply(before))
	peer.Encap, peer.Node, peer.VTEP = "gre", netip.MustParseAddr("192.168.32.9"), topology.VTEP{}
	for range 2 {
		if err := d.Apply(stateOf(peer)); err == nil {
			t.Error("no error")
		}
		r.check(t, before)
	}
	// What it had is another's now: the other gets it.
	heir := peerOf("172.247.0.0/24", "192.168.32.246", topology.EncapVXLAN, peerMAC)
	heir.Path.MTU = 1400
	if err := d.Apply(stateOf(peer, heir)); err == nil {
		t.Error("no error")
	}
	c, want := r.content(t), mustGet[maps.Host](t)(hostEntry(before.Self, heir))
	if c.Nodes[heir.Node] != want || c.FDB[maps.FDBKey{VNI: 1, MAC: peerMAC}] != want {
		t.Errorf("node and MAC point to %+v and %+v, want %+v", c.Nodes[heir.Node], c.FDB, want)
	}
	if c.Routes[peer.Subnet] != wantContent(t, before).Routes[peer.Subnet] {
		t.Errorf("the refused peer lost its route: %+v", c.Routes)
	}
}
