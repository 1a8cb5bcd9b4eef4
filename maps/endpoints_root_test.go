// SPDX-License-Identifier: Apache-2.0

//go:build root

package maps

import (
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/bpf"
)

// found is what the programs find of each of some addresses: what the index has, else the hash.
func (e *Endpoints) found(t *testing.T, some []netip.Addr) map[netip.Addr]Endpoint {
	t.Helper()
	all, err := e.All()
	must(t, err)
	found := map[netip.Addr]Endpoint{}
	for _, a := range some {
		_, slot, err := e.slot(a)
		must(t, err)
		if slot.Addr == a {
			found[a] = slot.Endpoint
		} else if ep, ok := all[AddrKey{e.network, a}]; ok {
			found[a] = ep
		}
	}
	return found
}

// crowded are addresses of which many share a slot: of both families, in two subnets and around their ends.
func crowded() (all []netip.Addr) {
	for _, s := range []string{"172.245.0.0", "172.246.0.0", "172.245.3.254", "172.249.0.0", "2001:db8::", "2001:db8:0:1::", "2001:db8::3fe"} {
		a := netip.MustParseAddr(s)
		for range 4 {
			all = append(all, a)
			a = a.Next()
		}
	}
	return all
}

// TestEndpointIndex puts and deletes at random: the programs find what was put last, the index holds
// nothing else, and where no other address has a slot, it has its own.
func TestEndpointIndex(t *testing.T) {
	endpoints, all := newTestSet(t, nil).Endpoints, crowded()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	want := map[netip.Addr]Endpoint{}
	for range 2000 {
		a := all[random.IntN(len(all))]
		ep := Endpoint{Ifindex: 1 + random.Uint32N(3), MAC: MAC{2, byte(random.Uint32())}, Gateway: MAC{4}}
		switch random.IntN(5) {
		case 0, 1:
			must(t, endpoints.Delete(0, a))
			delete(want, a)
		case 2:
			must(t, endpoints.Put(7, a, ep)) // a network that the programs do not serve
		default:
			_, before, err := endpoints.slot(a)
			must(t, err)
			must(t, endpoints.Put(0, a, ep))
			want[a] = ep
			if _, after, err := endpoints.slot(a); err != nil || before.Addr.IsValid() && after.Addr != before.Addr {
				t.Fatalf("%s has the place of %s, %v", after.Addr, before.Addr, err)
			}
		}
		if diff := cmp.Diff(want, endpoints.found(t, all), compareAddrs); diff != "" {
			t.Fatalf("after %s: %s", a, diff)
		}
	}
	checkIndex(t, endpoints, want)
	_, err := endpoints.Reindex()
	must(t, err)
	checkIndex(t, endpoints, want)
	taken, err := endpoints.IndexUsage()
	must(t, err)
	slots := map[uint32]bool{}
	for a := range want {
		slots[endpoints.slotOf(a)] = true
	}
	if taken.Used != len(slots) || taken.Max != endpoints.index.Max() {
		t.Errorf("%+v of the index, want %d slots", taken, len(slots))
	}
}

// checkIndex holds that the index says nothing but what is wanted, each at its place.
func checkIndex(t *testing.T, e *Endpoints, want map[netip.Addr]Endpoint) {
	t.Helper()
	entries, err := e.IndexEntries()
	must(t, err)
	for _, s := range entries {
		if ep, ok := want[s.Value.Addr]; s.Bad != nil || !ok || ep != s.Value.Endpoint || e.slotOf(s.Value.Addr) != s.Key {
			t.Errorf("slot %d: %+v, %+v", s.Key, s.Value, s.Bad)
		}
	}
}

// TestEndpointHalfWritten has a writer stopped between its two maps: the index then says what the hash does, or nothing.
func TestEndpointHalfWritten(t *testing.T) {
	a, before, after := netip.MustParseAddr("172.245.0.2"), Endpoint{Ifindex: 9, MAC: MAC{1}}, Endpoint{Ifindex: 10, MAC: MAC{2}}
	for _, frozen := range []string{"endpoints", "endpoint_index"} {
		for name, write := range map[string]func(*Endpoints) error{
			"put":    func(e *Endpoints) error { return e.Put(0, a, after) },
			"delete": func(e *Endpoints) error { return e.Delete(0, a) },
		} {
			t.Run(name+" stopped by "+frozen, func(t *testing.T) {
				datapath := newMaps(t, settingsFor(testNetwork, testBits), nil)
				endpoints := setOf(t, datapath).Endpoints
				must(t, endpoints.Put(0, a, before))
				must(t, datapath[frozen].Freeze())
				if err := write(endpoints); !errors.Is(err, os.ErrPermission) {
					t.Fatalf("error %v, want one of permission", err)
				}
				all, err := endpoints.All()
				must(t, err)
				want := map[netip.Addr]Endpoint{}
				for k, ep := range all {
					want[k.Addr] = ep
				}
				if diff := cmp.Diff(want, endpoints.found(t, []netip.Addr{a}), compareAddrs); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestReindex leaves the index as a killed daemon, another version or damage may.
func TestReindex(t *testing.T) {
	datapath := newMaps(t, settingsFor(testNetwork, testBits), nil)
	index := datapath["endpoint_index"]
	a, b, c := netip.MustParseAddr("172.245.0.2"), netip.MustParseAddr("172.245.0.3"), netip.MustParseAddr("172.245.0.4")
	right, wrong := Endpoint{Ifindex: 9, MAC: MAC{1}, Gateway: MAC{2}}, Endpoint{Ifindex: 10, MAC: MAC{3}, Gateway: MAC{4}}
	slot := func(a netip.Addr, ep Endpoint) bpf.DatapathEndpointSlot {
		w, err := encodeEndpointSlot(EndpointSlot{a, ep})
		must(t, err)
		return w
	}
	for name, damage := range map[string]map[uint32]bpf.DatapathEndpointSlot{
		"nothing":                  {},
		"all gone":                 {2: {}, 3: {}},
		"killed before an address": {2: slot(netip.Addr{}, right)},
		"another interface":        {2: slot(a, wrong)},
		"a container that is gone": {4: slot(c, right)},
		"in another's place":       {2: slot(b, right), 3: slot(a, right)},
		"no address":               {2: {Addr: bpf.DatapathAddr{Word: [4]uint32{0, 0, 1, 0}}, Endpoint: slot(a, wrong).Endpoint}},
		"twice":                    {1029: slot(a, right), 5: slot(a, right)},
	} {
		t.Run(name, func(t *testing.T) {
			endpoints := setOf(t, datapath).Endpoints
			want := map[netip.Addr]Endpoint{a: right, b: right}
			for at := range want {
				must(t, endpoints.Put(0, at, right))
			}
			for n, w := range damage {
				must(t, index.Update(&n, &w, ebpf.UpdateAny))
			}
			all, err := endpoints.Reindex()
			must(t, err)
			if len(all) != len(want) {
				t.Errorf("%d entries of the hash, want %d", len(all), len(want))
			}
			if diff := cmp.Diff(want, endpoints.found(t, []netip.Addr{a, b, c}), compareAddrs); diff != "" {
				t.Error(diff)
			}
			checkIndex(t, endpoints, want)
			if u, err := endpoints.IndexUsage(); err != nil || u.Used != len(want) {
				t.Errorf("%+v in the index, %v, want %d", u, err, len(want))
			}
			for at := range maps.Keys(want) {
				must(t, endpoints.Delete(0, at))
			}
			if u, err := endpoints.IndexUsage(); err != nil || u.Used != 0 {
				t.Errorf("%+v in the index, %v, once all is deleted", u, err)
			}
		})
	}
}
