// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// pinned are the map directories of a pin directory with the sizes of their hosts map.
func pinned(t *testing.T, pinDir string) map[string]uint32 {
	t.Helper()
	entries, err := os.ReadDir(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]uint32{}
	for _, e := range entries {
		if e.IsDir() { // not the kernel's maps.debug
			all[e.Name()] = hostsIn(t, filepath.Join(pinDir, e.Name()))
		}
	}
	return all
}

// Kernels before 5.16 cannot exchange directories of a bpffs.
func TestReplaceMaps(t *testing.T) {
	nstest.Enter(t)
	o := testOptions(t)
	if err := open(t, o).Publish(); err != nil {
		t.Fatal(err)
	}
	o.Sizes.Hosts = 32
	open(t, o)
	if diff := cmp.Diff(map[string]uint32{mapsDir: 16, mapsStageDir: 32}, pinned(t, o.PinDir)); diff != "" {
		t.Fatalf("hosts maps before (-want +got):\n%s", diff)
	}
	if err := replaceMaps(o.PinDir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]uint32{mapsDir: 32}, pinned(t, o.PinDir)); diff != "" {
		t.Errorf("hosts maps after (-want +got):\n%s", diff)
	}
}

// A daemon killed at any step of replaceMaps leaves the next one a datapath to adopt.
func TestKilledWhileReplacingMaps(t *testing.T) {
	for name, test := range map[string]struct {
		renames [][2]string
		hosts   uint32 // of the datapath adopted
	}{
		"before the first rename":    {nil, 16},
		"between the renames":        {[][2]string{{mapsDir, mapsOldDir}}, 16},
		"before the old one is gone": {[][2]string{{mapsDir, mapsOldDir}, {mapsStageDir, mapsDir}}, 32},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Enter(t)
			o := testOptions(t)
			if err := open(t, o).Publish(); err != nil {
				t.Fatal(err)
			}
			bigger := o
			bigger.Sizes.Hosts = 32
			open(t, bigger)
			for _, r := range test.renames {
				if err := os.Rename(filepath.Join(o.PinDir, r[0]), filepath.Join(o.PinDir, r[1])); err != nil {
					t.Fatal(err)
				}
			}
			o.Sizes.Hosts = test.hosts
			if d := open(t, o); d.staged {
				t.Error("maps were made anew, want the pinned ones adopted")
			}
			if diff := cmp.Diff(map[string]uint32{mapsDir: test.hosts}, pinned(t, o.PinDir)); diff != "" {
				t.Errorf("hosts maps (-want +got):\n%s", diff)
			}
		})
	}
}

// Who opens the maps while daemons publish others has the maps of one datapath.
func TestOpenBesidePublish(t *testing.T) {
	nstest.Enter(t)
	o := testOptions(t)
	var daemons []*Datapath
	for _, size := range []uint32{16, 32} {
		o.Sizes.Neighbours, o.Sizes.Endpoints = size, size
		d := open(t, o)
		if err := d.Publish(); err != nil {
			t.Fatal(err)
		}
		daemons = append(daemons, d)
	}
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- publishUntil(done, daemons) }()
	sizes := map[uint32]int{} // how often each datapath was there
	for len(ended) == 0 && (sizes[16] < 20 || sizes[32] < 20) {
		set, err := maps.OpenPinned(filepath.Join(o.PinDir, mapsDir))
		if err != nil {
			t.Error(err)
			break
		}
		if n, e := set.Neigh.Max(), set.Endpoints.Max(); n != e {
			t.Errorf("map neigh of one datapath, with %d entries, and endpoints of another, with %d", n, e)
		}
		sizes[set.Neigh.Max()]++
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// publishUntil publishes the maps of one daemon after the other.
func publishUntil(done <-chan struct{}, daemons []*Datapath) error {
	for i := 0; ; i++ {
		select {
		case <-done:
			return nil
		default:
		}
		d := daemons[i%len(daemons)]
		d.staged = true
		if err := errors.Join(d.stage(), publishMaps(d.pinDir)); err != nil {
			return err
		}
	}
}
