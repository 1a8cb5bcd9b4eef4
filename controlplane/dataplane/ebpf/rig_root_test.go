// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

func TestMain(m *testing.M) {
	if err := rlimit.RemoveMemlock(); err != nil {
		fmt.Fprintln(os.Stderr, "the tests need root:", err)
		os.Exit(1) //nolint:forbidigo // what TestMain ends by
	}
	os.Exit(m.Run()) //nolint:forbidigo // what TestMain ends by
}

// rig is the loaded datapath, attached to nothing, of a vxlan network in which some peers get plain packets.
type rig struct {
	coll *ebpf.Collection
	set  *maps.Set
}

// sizes are max_entries by map, beside the object's own.
type sizes map[string]uint32

func newRig(t testing.TB, sizes sizes) *rig {
	t.Helper()
	spec, err := bpf.LoadDatapath()
	must(t, err)
	settings := Settings(true, Network{
		Self: testSelf(topology.EncapVXLAN), Prefix: testNetwork, SubnetLen: 24, Overlay: Overlay{Ifindex: 9, MAC: selfMAC},
	})
	must(t, spec.Variables[bpf.DatapathVarConfig].Set(&settings))
	spec.Maps["route_index"].MaxEntries = settings.Ipv4.IndexCount + settings.Ipv6.IndexCount
	for name, n := range sizes {
		spec.Maps[name].MaxEntries = n
	}
	coll, err := ebpf.NewCollection(spec)
	must(t, err)
	t.Cleanup(coll.Close)
	set, err := maps.NewSet(coll.Maps)
	must(t, err)
	return &rig{coll, set}
}

// dataplane is a new one on the rig's maps, as after a restart.
func (r *rig) dataplane(t testing.TB) *Dataplane {
	t.Helper()
	d, err := New(r.set, 0, 1)
	must(t, err)
	return d
}

// apply makes the maps equal to a state, to the last entry, as the daemon does when nothing changes any more.
func apply(t testing.TB, d *Dataplane, s topology.State) {
	t.Helper()
	must(t, errors.Join(d.Apply(s), d.Sweep()))
}

// freeze makes every further write from user space fail.
func (r *rig) freeze(t *testing.T, names ...string) {
	t.Helper()
	for name, m := range r.coll.Maps {
		if name != ".rodata" && (len(names) == 0 || slices.Contains(names, name)) {
			must(t, m.Freeze())
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustGet[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// stateOf is a vxlan network with these peers.
func stateOf(peers ...topology.Peer) topology.State {
	return topology.State{Network: testNetwork, Self: testSelf(topology.EncapVXLAN), Peers: peers}
}

// content is what the maps hold, host indexes followed to their entries.
type content struct {
	Self   maps.Host
	Hosts  map[maps.Host]int // how often
	Routes map[netip.Prefix]maps.Host
	Nodes  map[netip.Addr]maps.Host
	Neigh  map[maps.AddrKey]maps.MAC
	FDB    map[maps.FDBKey]maps.Host
}

// wantContent is what the maps have to hold for a state.
func wantContent(t testing.TB, s topology.State) content {
	t.Helper()
	self := maps.Host{Node: s.Self.Node, NextHop: s.Self.Node, Ifindex: uint32(s.Self.Uplink)}
	c := content{
		Self: self, Hosts: map[maps.Host]int{},
		Routes: map[netip.Prefix]maps.Host{s.Self.Subnet: self}, Nodes: map[netip.Addr]maps.Host{},
		Neigh: map[maps.AddrKey]maps.MAC{}, FDB: map[maps.FDBKey]maps.Host{},
	}
	for _, p := range s.Peers {
		h := mustGet[maps.Host](t)(hostEntry(s.Self, p))
		c.Hosts[h] = 1
		c.Routes[p.Subnet], c.Nodes[p.Node] = h, h
		if p.Encap == topology.EncapVXLAN {
			c.Neigh[maps.AddrKey{Addr: p.VTEP.Addr}] = p.VTEP.MAC
			c.FDB[maps.FDBKey{VNI: s.Self.VNI, MAC: p.VTEP.MAC}] = h
		}
	}
	return c
}

func (r *rig) content(t testing.TB) content {
	t.Helper()
	hosts := mustGet[map[uint32]maps.Host](t)(r.set.Hosts.All())
	c := content{
		Self: hosts[hostSelf], Hosts: map[maps.Host]int{},
		Routes: map[netip.Prefix]maps.Host{}, Nodes: map[netip.Addr]maps.Host{},
		Neigh: mustGet[map[maps.AddrKey]maps.MAC](t)(r.set.Neigh.All()), FDB: map[maps.FDBKey]maps.Host{},
	}
	for index, h := range hosts {
		if index != hostSelf {
			c.Hosts[h]++
		}
	}
	for prefix, index := range r.routes(t) {
		c.Routes[prefix] = hosts[index]
	}
	r.checkSlots(t, hosts)
	for addr, index := range mustGet[map[netip.Addr]uint32](t)(r.set.Nodes.All()) {
		c.Nodes[addr] = hosts[index]
	}
	for key, index := range mustGet[map[maps.FDBKey]uint32](t)(r.set.FDB.All()) {
		c.FDB[key] = hosts[index]
	}
	return c
}

// checkSlots holds what slots and templates say equal to what the hosts' entries say.
func (r *rig) checkSlots(t testing.TB, hosts map[uint32]maps.Host) {
	t.Helper()
	templates := mustGet[map[uint32]maps.Host](t)(r.set.Templates.All())
	for _, route := range mustGet[[]maps.Route](t)(r.set.Routes.All()) {
		s, want := route.Shortcut, hosts[route.Host]
		if s.Node.IsValid() && s.Node != want.Node {
			t.Errorf("the slot of %s has node %s, its host %s", route.Prefix, s.Node, want.Node)
		}
		if got := whole(templates[uint32(s.Template)], s); s.Template != 0 && got != want {
			t.Errorf("the slot of %s and template %d make %+v, its host is %+v", route.Prefix, s.Template, got, want)
		}
	}
}

func (r *rig) routes(t testing.TB) map[netip.Prefix]uint32 {
	t.Helper()
	all := map[netip.Prefix]uint32{}
	for _, route := range mustGet[[]maps.Route](t)(r.set.Routes.All()) {
		all[route.Prefix] = route.Host
	}
	return all
}

// index is the host index that a subnet's route points to, 0 where there is no route.
func (r *rig) index(t testing.TB, subnet string) uint32 {
	t.Helper()
	return r.routes(t)[netip.MustParsePrefix(subnet)]
}

// check holds the maps equal to a state.
func (r *rig) check(t testing.TB, s topology.State) {
	t.Helper()
	if diff := r.diff(t, s); diff != "" {
		t.Fatalf("maps (-want +got):\n%s", diff)
	}
}

func (r *rig) diff(t testing.TB, s topology.State) string {
	t.Helper()
	return cmp.Diff(wantContent(t, s), r.content(t), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}
