// SPDX-License-Identifier: Apache-2.0

//go:build root

package maps

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bpfnet/bpfnet/bpf"
)

func TestMain(m *testing.M) {
	if err := rlimit.RemoveMemlock(); err != nil {
		fmt.Fprintln(os.Stderr, "the tests need root:", err)
		os.Exit(1) //nolint:forbidigo // what TestMain ends by
	}
	os.Exit(m.Run()) //nolint:forbidigo // what TestMain ends by
}

// sizes are max_entries by map, beside the object's own.
type sizes map[string]uint32

// testNetwork is the index of most tests: 172.244.0.0/14 in /24s.
var testNetwork = netip.MustParsePrefix("172.244.0.0/14")

const testBits = 24

// settingsFor are settings with an index over a network.
func settingsFor(network netip.Prefix, bits int) bpf.DatapathSettings {
	var s bpf.DatapathSettings
	w := Window{Base: network.Addr(), Bits: bits, Count: 1 << (bits - network.Bits())}
	w.Encode(&s.Ipv4)
	return s
}

// newSpec is the datapath's object with settings and sizes filled in.
func newSpec(t testing.TB, s bpf.DatapathSettings, sizes sizes) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables[bpf.DatapathVarConfig].Set(&s); err != nil {
		t.Fatal(err)
	}
	spec.Maps["route_index"].MaxEntries = max(1, s.Ipv4.IndexCount+s.Ipv6.IndexCount)
	for name, n := range sizes {
		spec.Maps[name].MaxEntries = n
	}
	return spec
}

// newMaps makes the datapath's maps, without programs.
func newMaps(t testing.TB, s bpf.DatapathSettings, sizes sizes) map[string]*ebpf.Map {
	t.Helper()
	spec := newSpec(t, s, sizes)
	spec.Programs = nil
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(coll.Close)
	return coll.Maps
}

func newTestSet(t testing.TB, sizes sizes) *Set {
	t.Helper()
	return setOf(t, newMaps(t, settingsFor(testNetwork, testBits), sizes))
}

func setOf(t testing.TB, maps map[string]*ebpf.Map) *Set {
	t.Helper()
	set, err := NewSet(maps)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
