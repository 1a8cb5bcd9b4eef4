// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// mapID is a pinned map's.
func mapID(t *testing.T, pinDir, name string) ebpf.MapID {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, mapsDir, name), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// replacePin has another version's map pinned where this one's was.
func replacePin(t *testing.T, pinDir, name string, change func(*ebpf.MapSpec)) {
	t.Helper()
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Maps[name]
	want.MaxEntries = 16 // of testOptions
	change(want)
	m, err := ebpf.NewMap(want)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	path := filepath.Join(pinDir, mapsDir, name)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
}

// rename makes a struct another version's, though it is as long as it was.
func rename(m *ebpf.MapSpec) { m.Value.(*btf.Struct).Members[0].Name = "another" }

// What another version has left is adopted where it means the same: hosts and
// what points there together, the rest each by itself.
func TestOtherVersion(t *testing.T) {
	for changed, anew := range map[string]map[string]bool{
		"hosts":     {"hosts": true, "templates": true, "nodes": true, "routes": true, "route_index": true, "fdb": true, "events": true},
		"endpoints": {"endpoints": true},
		"neigh":     {"neigh": true},
	} {
		t.Run(changed, func(t *testing.T) {
			nstest.Enter(t)
			eth := nstest.AddVeth(t, "eth0", 1500)
			o := testOptions(t)
			d := start(t, o, bpf.FromNetwork, eth)
			replacePin(t, o.PinDir, changed, rename)
			before := map[string]ebpf.MapID{}
			for name := range d.Maps() {
				if name != rodata {
					before[name] = mapID(t, o.PinDir, name)
				}
			}
			start(t, o, bpf.FromNetwork, eth)
			for name, id := range before {
				if now := mapID(t, o.PinDir, name); (now != id) != anew[name] {
					t.Errorf("map %s was %d, is %d, want it made anew: %t", name, id, now, anew[name])
				}
			}
		})
	}
}

// A newer version's map and program are gone once this one is in its place:
// the next upgrade would find them as they stood, and the program runs on maps
// that nobody fills.
func TestOlderVersion(t *testing.T) {
	for name, useClsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			nstest.Enter(t)
			eth := nstest.AddVeth(t, "eth0", 1500)
			o := testOptions(t)
			o.Clsact = useClsact
			start(t, o, bpf.FromNetwork, eth)
			hosts := mapID(t, o.PinDir, "hosts")
			newer := hook{program: "from_future", egress: true, handle: 77}
			attachAs(t, o, attachment{newer, eth})
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			future := filepath.Join(o.PinDir, mapsDir, "future")
			if err := m.Pin(future); err != nil {
				t.Fatal(err)
			}

			start(t, o, bpf.FromNetwork, eth)
			if _, err := os.Stat(future); !os.IsNotExist(err) {
				t.Errorf("the newer version's map is still pinned (%v)", err)
			}
			if now := mapID(t, o.PinDir, "hosts"); now != hosts {
				t.Errorf("hosts was map %d, is %d", hosts, now)
			}
			if left := atEgress(t, eth); left != "" {
				t.Errorf("the newer version's program is still attached: %s", left)
			}
		})
	}
}

// attachAs attaches a program under a name that this version has no hook for.
func attachAs(t *testing.T, o Options, a attachment) {
	t.Helper()
	d := open(t, o)
	if err := newAttacher(o).attach(a, d.coll.Programs[bpf.FromHost]); err != nil {
		if haveTCX(t) {
			t.Fatal(err)
		}
		if err = (clsact{}).attach(a, d.coll.Programs[bpf.FromHost]); err != nil {
			t.Fatal(err)
		}
	}
}

// atEgress says what is attached there, by either way.
func atEgress(t *testing.T, ifindex int) string {
	t.Helper()
	all, err := filters(attachment{hook{egress: true}, ifindex})
	if err != nil {
		t.Fatal(err)
	}
	var programs []ebpf.ProgramID
	if haveTCX(t) {
		programs = tcxPrograms(t, ifindex, ebpf.AttachTCXEgress)
	}
	if len(all)+len(programs) == 0 {
		return ""
	}
	return fmt.Sprint(all, programs)
}
