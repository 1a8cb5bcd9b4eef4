// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/controlplane/containers"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// fullPeer is the nth of many peers, on a subnet that only the trie takes.
func fullPeer(n int) topology.Peer {
	return peerOf(fmt.Sprintf("172.246.%d.0/25", n), fmt.Sprintf("192.168.33.%d", n),
		topology.EncapVXLAN, topology.MAC{0xc6, 0, 0, 0, 0, byte(n)})
}

// wantFull checks the one line that a full map is told of by.
func wantFull(t *testing.T, err error, name string, size int, flag string) {
	t.Helper()
	if !errors.Is(err, maps.ErrFull) {
		t.Fatalf("error %v, want a full map", err)
	}
	want := fmt.Sprintf("map %s is full (%d entries): raise %s", name, size, flag)
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
}

// TestFullMap fills one map after another with three peers where there is room
// for two. The first two are served whole; one of them that changes is served,
// or keeps what it had; and when one goes, the third is served.
func TestFullMap(t *testing.T) {
	a, b, c := fullPeer(1), fullPeer(2), fullPeer(3)
	changed := a
	changed.VTEP.MAC = topology.MAC{0xc6, 0, 0, 0, 0, 0}
	tests := []struct {
		name  string
		sizes sizes
		flag  string
		size  int
		after topology.State // what is served of changed and b
	}{
		{"hosts", sizes{"hosts": 4}, "--max-hosts", 4, stateOf(a, b)}, // a change needs a place
		{"nodes", sizes{"nodes": 2}, "--max-hosts", 2, stateOf(changed, b)},
		{"routes", sizes{"routes": 2}, "--max-routes", 2, stateOf(changed, b)},
		{"neigh", sizes{"neigh": 2}, "--max-neighbours", 2, stateOf(changed, b)},
		{"fdb", sizes{"fdb": 3}, "--max-neighbours", 3, stateOf(changed, b)}, // a MAC is a key, so a change needs a place
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, test.sizes)
			d := r.dataplane(t)
			must(t, d.Apply(stateOf(a, b)))
			more := []topology.Peer{a, b, c, fullPeer(4)}
			for range 2 { // tried again, it says the same
				wantFull(t, d.Apply(stateOf(more...)), test.name, test.size, test.flag)
				r.checkServed(t, stateOf(a, b))
			}
			apply(t, d, stateOf(a, b))
			more[0] = changed
			wantFull(t, d.Apply(stateOf(more...)), test.name, test.size, test.flag)
			r.checkServed(t, test.after)
			r.heal(t, d, stateOf(changed, c))
		})
	}
}

// checkServed holds the peers of a state served, whatever else the maps hold.
func (r *rig) checkServed(t *testing.T, s topology.State) {
	t.Helper()
	want, got := wantContent(t, s), r.content(t)
	only(got.Hosts, want.Hosts)
	only(got.Routes, want.Routes)
	only(got.Nodes, want.Nodes)
	only(got.Neigh, want.Neigh)
	only(got.FDB, want.FDB)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Fatalf("what should be served (-want +got):\n%s", diff)
	}
}

// only drops from a map what is not in another.
func only[K comparable, V any](m, of map[K]V) {
	for k := range m {
		if _, ok := of[k]; !ok {
			delete(m, k)
		}
	}
}

// heal applies until the maps are equal to the state, as the daemon's retries do.
func (r *rig) heal(t *testing.T, d *Dataplane, s topology.State) {
	t.Helper()
	const tries = 3
	var err error
	for range tries {
		if err = d.Apply(s); err == nil {
			must(t, d.Sweep())
			r.check(t, s)
			return
		}
	}
	t.Fatalf("not healed after %d tries: %v", tries, err)
}

// TestManyChangeInFullHosts: all entries have to be replaced, and there is one free place.
func TestManyChangeInFullHosts(t *testing.T) {
	const peers = 12
	r := newRig(t, sizes{"hosts": 2 + peers + 1})
	d := r.dataplane(t)
	s := stateOf()
	for n := range peers {
		s.Peers = append(s.Peers, fullPeer(n))
	}
	must(t, d.Apply(s))
	s.Peers = slices.Clone(s.Peers)
	for i := range s.Peers {
		s.Peers[i].Path.MTU = 1400 // the uplink's has changed
	}
	for range peers {
		if err := d.Apply(s); err == nil {
			break
		}
		for subnet, h := range r.content(t).Routes {
			if h == (maps.Host{}) {
				t.Fatalf("%s points to an empty entry", subnet)
			}
		}
	}
	must(t, d.Sweep())
	r.check(t, s)
}

// TestFullErrorIsOneLine: however many find no room, the error names the first of them, always the same.
func TestFullErrorIsOneLine(t *testing.T) {
	r := newRig(t, sizes{"hosts": 4})
	d := r.dataplane(t)
	s := stateOf()
	for n := range 50 {
		s.Peers = append(s.Peers, fullPeer(n))
	}
	const want = "serve lease 172.246.2.0-25: add host 192.168.33.2: map hosts is full (4 entries): raise --max-hosts (and 47 more)"
	for range 3 {
		if err := d.Apply(s); err == nil || err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
}

func endpointOf(n int) containers.Endpoint {
	return containers.Endpoint{
		Addr: netip.AddrFrom4([4]byte{172, 245, 0, byte(n)}), Ifindex: 10 + n,
		MAC: topology.MAC{2, 0, 0, 0, 1, byte(n)}, Gateway: topology.MAC{2, 0, 0, 0, 2, byte(n)},
	}
}

func (r *rig) checkEndpoints(t *testing.T, found ...containers.Endpoint) {
	t.Helper()
	want := map[maps.AddrKey]maps.Endpoint{}
	for _, e := range found {
		want[maps.AddrKey{Addr: e.Addr}] = maps.Endpoint{Ifindex: uint32(e.Ifindex), MAC: e.MAC, Gateway: e.Gateway}
	}
	got := mustGet[map[maps.AddrKey]maps.Endpoint](t)(r.set.Endpoints.All())
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Fatalf("endpoints (-want +got):\n%s", diff)
	}
}

func TestEndpoints(t *testing.T) {
	r := newRig(t, nil)
	e := mustGet[*Endpoints](t)(NewEndpoints(r.set, 0))
	moved := endpointOf(2)
	moved.Ifindex, moved.MAC = 99, topology.MAC{2, 9}
	for _, found := range [][]containers.Endpoint{
		nil,
		{endpointOf(2)},
		{endpointOf(2), endpointOf(3)},
		{moved, endpointOf(3)},
		{endpointOf(4)},
		{},
	} {
		must(t, e.Apply(found))
		r.checkEndpoints(t, found...)
	}
}

func TestEndpointsKnown(t *testing.T) {
	r := newRig(t, nil)
	found := []containers.Endpoint{endpointOf(2), endpointOf(3)}
	must(t, mustGet[*Endpoints](t)(NewEndpoints(r.set, 0)).Apply(found))
	must(t, r.set.Endpoints.Put(7, endpointOf(4).Addr, maps.Endpoint{Ifindex: 1})) // of another network
	restarted := mustGet[*Endpoints](t)(NewEndpoints(r.set, 0))
	byAddr := cmpopts.SortSlices(func(a, b containers.Endpoint) bool { return a.Addr.Less(b.Addr) })
	if diff := cmp.Diff(found, restarted.Known(), byAddr, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("known after a restart (-want +got):\n%s", diff)
	}
	must(t, restarted.Apply(nil))
	all := mustGet[map[maps.AddrKey]maps.Endpoint](t)(r.set.Endpoints.All())
	if len(all) != 1 {
		t.Errorf("another network's endpoints were touched: %v", all)
	}
}

func TestEndpointsFull(t *testing.T) {
	r := newRig(t, sizes{"endpoints": 2})
	e := mustGet[*Endpoints](t)(NewEndpoints(r.set, 0))
	must(t, e.Apply([]containers.Endpoint{endpointOf(2), endpointOf(3)}))
	changed := endpointOf(3)
	changed.Ifindex = 99
	for range 2 {
		err := e.Apply([]containers.Endpoint{endpointOf(1), endpointOf(2), changed})
		wantFull(t, err, "endpoints", 2, "--max-endpoints")
		r.checkEndpoints(t, endpointOf(2), changed)
	}
	must(t, e.Apply([]containers.Endpoint{endpointOf(1), changed}))
	r.checkEndpoints(t, endpointOf(1), changed)
}

// TestEndpointsOneFailure: an address that no map takes does not hold up the others.
func TestEndpointsOneFailure(t *testing.T) {
	r := newRig(t, nil)
	e := mustGet[*Endpoints](t)(NewEndpoints(r.set, 0))
	err := e.Apply([]containers.Endpoint{{Ifindex: 5}, endpointOf(2)})
	if err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("error %v, want one that tells of the address", err)
	}
	r.checkEndpoints(t, endpointOf(2))
}
