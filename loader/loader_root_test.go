// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// TestMain fails the run if a test leaves file descriptors open.
func TestMain(m *testing.M) {
	before := openFiles()
	code := m.Run()
	if after := openFiles(); code == 0 && after > before {
		os.Stderr.WriteString("file descriptors leaked\n") //nolint:errcheck // about to fail anyway
		code = 1
	}
	os.Exit(code) //nolint:forbidigo // TestMain's own way out
}

func openFiles() int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	n := 0
	for _, fd := range fds {
		// The runtime's poller and cilium/ebpf's cached probes come and go: count what a datapath holds.
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && (to == "anon_inode:bpf-map" ||
			to == "anon_inode:bpf-prog" || to == "anon_inode:bpf_link") {
			n++
		}
	}
	return n
}

func testOptions(t *testing.T) Options {
	t.Helper()
	runDir := t.TempDir()
	pinDir, err := EnsurePinDir(runDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Cleanup(runDir); err != nil {
			t.Error(err)
		}
	})
	return Options{
		PinDir:   pinDir,
		Settings: bpf.DatapathSettings{Vni: 1, Ipv4: bpf.DatapathFamily{IndexShift: 8, IndexCount: 16}},
		Sizes:    Sizes{Routes: 16, Hosts: 16, Neighbours: 16, Endpoints: 16},
	}
}

func open(t *testing.T, o Options) *Datapath {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// start is what a daemon does: load, attach, publish.
func start(t *testing.T, o Options, program string, ifindex int) *Datapath {
	t.Helper()
	d := open(t, o)
	if err := d.Attach(program, ifindex); err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(); err != nil {
		t.Fatal(err)
	}
	return d
}

// haveTCX reports whether the kernel must have tcx: it came with 6.6.
func haveTCX(t *testing.T) bool {
	t.Helper()
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	return version >= 6<<16|6<<8
}

// attached is the program at an interface's ingress, 0 if none: by tcx where
// the kernel has it, else by clsact.
func attached(t *testing.T, ifindex int) ebpf.ProgramID {
	t.Helper()
	var ids []ebpf.ProgramID
	if haveTCX(t) {
		ids = tcxPrograms(t, ifindex, ebpf.AttachTCXIngress)
	} else {
		all, err := filters(attachment{ifindex: ifindex})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			ids = append(ids, ebpf.ProgramID(f.(*netlink.BpfFilter).Id))
		}
	}
	switch len(ids) {
	case 0:
		return 0
	case 1:
		return ids[0]
	}
	t.Fatalf("programs %v attached, want at most one", ids)
	return 0
}

func tcxPrograms(t *testing.T, ifindex int, side ebpf.AttachType) (ids []ebpf.ProgramID) {
	t.Helper()
	r, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: side})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

// waitDetached waits until nothing is attached: the kernel ends a tcx link some
// time after its pin is gone.
func waitDetached(t *testing.T, ifindex int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); attached(t, ifindex) != 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("program still attached")
		}
	}
}

func TestRestartWritesNothing(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	d := start(t, o, bpf.FromNetwork, eth)
	if err := d.Maps()["route_index"].Put(uint32(3), &bpf.DatapathRouteSlot{Host: 7}); err != nil {
		t.Fatal(err)
	}
	first := attached(t, eth)

	again := start(t, o, bpf.FromNetwork, eth)
	if now := attached(t, eth); now != first {
		t.Errorf("program %d was replaced by %d, though nothing changed", first, now)
	}
	var slot bpf.DatapathRouteSlot
	if err := again.Maps()["route_index"].Lookup(uint32(3), &slot); err != nil || slot.Host != 7 {
		t.Errorf("route_index[3] = %d, %v after the restart, want 7", slot.Host, err)
	}
}

func TestChangedSettingsReplaceInPlace(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	d := start(t, o, bpf.FromNetwork, eth)
	if err := d.Maps()["route_index"].Put(uint32(3), &bpf.DatapathRouteSlot{Host: 7}); err != nil {
		t.Fatal(err)
	}
	first := attached(t, eth)

	o.Settings.Vni = 2
	again := start(t, o, bpf.FromNetwork, eth)
	if now := attached(t, eth); now == first || now == 0 {
		t.Errorf("program %d attached, want a new one in the place of %d", now, first)
	}
	var slot bpf.DatapathRouteSlot
	if err := again.Maps()["route_index"].Lookup(uint32(3), &slot); err != nil || slot.Host != 7 {
		t.Errorf("route_index[3] = %d, %v: entries have to survive a change of settings", slot.Host, err)
	}
	if s := pinnedSettings(t, o.PinDir); s.Vni != 2 {
		t.Errorf("pinned settings have VNI %d, want 2", s.Vni)
	}
}

func pinnedSettings(t *testing.T, pinDir string) *bpf.DatapathSettings {
	t.Helper()
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := pinnedMaps(filepath.Join(pinDir, mapsDir))
	if err != nil {
		t.Fatal(err)
	}
	defer closeMaps(pinned)
	s, err := readSettings(spec, pinned)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A map of another size cannot be adopted. The old programs go on with the old
// maps until the new ones are filled, and both change at Publish.
func TestChangedLayout(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	start(t, o, bpf.FromNetwork, eth)
	first := attached(t, eth)

	o.Sizes.Hosts = 32
	d := open(t, o)
	if now := attached(t, eth); now != first {
		t.Fatalf("program %d replaced by %d before the new maps were filled", first, now)
	}
	if n := pinnedHosts(t, o.PinDir); n != 16 {
		t.Fatalf("published hosts map has %d entries before Publish, want the old one's 16", n)
	}
	if err := d.Attach(bpf.FromNetwork, eth); err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(); err != nil {
		t.Fatal(err)
	}
	if n := pinnedHosts(t, o.PinDir); n != 32 {
		t.Errorf("published hosts map has %d entries, want 32", n)
	}
	if _, err := os.Stat(filepath.Join(o.PinDir, mapsStageDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("staging directory is still there: %v", err)
	}
}

func pinnedHosts(t *testing.T, pinDir string) uint32 {
	t.Helper()
	return hostsIn(t, filepath.Join(pinDir, mapsDir))
}

// hostsIn is the size of the hosts map pinned in a directory.
func hostsIn(t *testing.T, dir string) uint32 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "hosts"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return m.MaxEntries()
}

// A daemon killed after it attached and before it published: programs run on
// maps that are pinned nowhere. The next one must not fill the old maps under them.
func TestKilledBeforePublish(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	start(t, o, bpf.FromNetwork, eth)
	bigger := o
	bigger.Sizes.Hosts = 32
	killed := open(t, bigger)
	if err := killed.Attach(bpf.FromNetwork, eth); err != nil {
		t.Fatal(err)
	}
	orphan := attached(t, eth)

	start(t, o, bpf.FromNetwork, eth)
	if now := attached(t, eth); now == orphan {
		t.Error("the program on unpublished maps is still attached")
	}
}
