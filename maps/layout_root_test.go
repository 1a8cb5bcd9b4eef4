// SPDX-License-Identifier: Apache-2.0

//go:build root

package maps

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/bpfnet/bpfnet/bpf"
)

func TestCheckLayout(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ebpf.MapSpec)
		same   bool
	}{
		"the same":           {func(*ebpf.MapSpec) {}, true},
		"more entries":       {func(m *ebpf.MapSpec) { m.MaxEntries++ }, true},
		"another kind":       {func(m *ebpf.MapSpec) { m.Type = ebpf.LRUHash }, false},
		"a longer value":     {func(m *ebpf.MapSpec) { m.Value, m.ValueSize = nil, m.ValueSize+8 }, false},
		"a longer key":       {func(m *ebpf.MapSpec) { m.Key, m.KeySize = nil, m.KeySize+8 }, false},
		"fields swapped":     {func(m *ebpf.MapSpec) { swapMembers(m, 1, 2) }, false},
		"a field renamed":    {func(m *ebpf.MapSpec) { endpointOf(m).Members[0].Name = "number" }, false},
		"the struct renamed": {func(m *ebpf.MapSpec) { endpointOf(m).Name = "container" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			want, other := endpointsSpec(t), endpointsSpec(t)
			test.change(other)
			m, err := ebpf.NewMap(other)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := CheckLayout("endpoints", want, m); (err == nil) != test.same {
				t.Errorf("%v, want the same layout: %t", err, test.same)
			}
		})
	}
}

func endpointsSpec(t *testing.T) *ebpf.MapSpec {
	t.Helper()
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	return spec.Maps["endpoints"]
}

func endpointOf(m *ebpf.MapSpec) *btf.Struct { return m.Value.(*btf.Struct) }

// swapMembers gives two fields of one size each other's place.
func swapMembers(m *ebpf.MapSpec, i, j int) {
	s := endpointOf(m)
	a, b := s.Members[i], s.Members[j]
	a.Offset, b.Offset = b.Offset, a.Offset
	s.Members[i], s.Members[j] = b, a
}

// The object's own maps, as the kernel has them: of those with a type none is different.
func TestCheckLayoutOfEveryMap(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range spec.Maps {
		m, err := ebpf.NewMap(want)
		if err != nil {
			t.Fatal(err)
		}
		if err = CheckLayout(name, want, m); err != nil {
			t.Error(err)
		}
		handle, err := m.Handle()
		if typed := want.Type != ebpf.RingBuf && want.Type != ebpf.CPUMap; (err == nil) != typed {
			t.Errorf("map %s: %v, want its types known: %t", name, err, typed)
		}
		if handle != nil {
			_ = handle.Close()
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
