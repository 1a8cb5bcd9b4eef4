// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"reflect"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestMapABI: pinned maps outlive a daemon, so a size that changes needs a new map. Go's types, the
// object's maps and the numbers here have to agree.
func TestMapABI(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	must(t, err)
	index := unsafe.Sizeof(bpf.DatapathHostIndex(0))
	for name, want := range map[string]struct {
		kind       ebpf.MapType
		key, value uintptr
		keySize    uint32
		valueSize  uint32
	}{
		"routes":         {ebpf.LPMTrie, unsafe.Sizeof(bpf.DatapathRouteKey{}), index, 24, 4},
		"route_index":    {ebpf.Array, 4, unsafe.Sizeof(bpf.DatapathRouteSlot{}), 4, 16},
		"hosts":          {ebpf.Array, 4, unsafe.Sizeof(bpf.DatapathHost{}), 4, 128},
		"templates":      {ebpf.Array, 4, unsafe.Sizeof(bpf.DatapathHost{}), 4, 128},
		"nodes":          {ebpf.Hash, unsafe.Sizeof(bpf.DatapathAddr{}), index, 16, 4},
		"neigh":          {ebpf.Hash, unsafe.Sizeof(bpf.DatapathIpKey{}), unsafe.Sizeof(bpf.DatapathNeighbour{}), 20, 8},
		"fdb":            {ebpf.Hash, unsafe.Sizeof(bpf.DatapathFdbKey{}), index, 12, 4},
		"endpoints":      {ebpf.Hash, unsafe.Sizeof(bpf.DatapathIpKey{}), unsafe.Sizeof(bpf.DatapathEndpoint{}), 20, 16},
		"endpoint_index": {ebpf.Array, 4, unsafe.Sizeof(bpf.DatapathEndpointSlot{}), 4, 32},
		"next_hops":      {ebpf.PerCPUArray, 4, unsafe.Sizeof(bpf.DatapathNextHop{}), 4, 32},
		"counters":       {ebpf.PerCPUArray, 4, unsafe.Sizeof(bpf.DatapathCounter{}), 4, 16},
	} {
		m := spec.Maps[name]
		if m == nil {
			t.Errorf("no map %s", name)
			continue
		}
		if m.Type != want.kind || m.KeySize != want.keySize || m.ValueSize != want.valueSize {
			t.Errorf("map %s: %s, key %d, value %d, want %+v", name, m.Type, m.KeySize, m.ValueSize, want)
		}
		if want.key != uintptr(want.keySize) || want.value != uintptr(want.valueSize) {
			t.Errorf("map %s: Go's key has %d bytes, value %d, want %d and %d", name, want.key, want.value, want.keySize, want.valueSize)
		}
	}
	if n := spec.Maps["counters"].MaxEntries; n != uint32(counterMax) {
		t.Errorf("%d counters, want %d", n, counterMax)
	}
	if n := unsafe.Sizeof(bpf.DatapathEvent{}); n != 80 {
		t.Errorf("an event has %d bytes, want 80", n)
	}
	if have, want := unsafe.Sizeof(bpf.DatapathSettings{}), uintptr(spec.Variables[bpf.DatapathVarConfig].Size()); have != want {
		t.Errorf("settings: Go's have %d bytes, the object's %d", have, want)
	}
}

// TestKeysHaveNoPadding: keys are hashed byte by byte, and Go does not clear padding.
func TestKeysHaveNoPadding(t *testing.T) {
	for _, key := range []any{bpf.DatapathRouteKey{}, bpf.DatapathIpKey{}, bpf.DatapathFdbKey{}, bpf.DatapathAddr{}} {
		kind := reflect.TypeOf(key)
		used := uintptr(0)
		for i := range kind.NumField() {
			used += kind.Field(i).Type.Size()
		}
		if used != kind.Size() {
			t.Errorf("%s: %d of %d bytes are fields", kind, used, kind.Size())
		}
	}
}
