// SPDX-License-Identifier: Apache-2.0

//go:build root

package maps

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// dropper is the whole datapath, and a packet that from_container drops: its source is known at
// another interface. It is sent by single runs, for one of several begins again where a signal comes.
func dropper(t *testing.T) (*Set, func(times int)) {
	t.Helper()
	coll, err := ebpf.NewCollection(newSpec(t, settingsFor(testNetwork, testBits), nil))
	must(t, err)
	t.Cleanup(coll.Close)
	set := setOf(t, coll.Maps)
	src, dst := netip.MustParseAddr("172.245.0.2"), netip.MustParseAddr("172.246.0.2")
	must(t, set.Endpoints.Put(0, src, Endpoint{Ifindex: 12345}))

	ip := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(ip, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()},
		gopacket.Payload(make([]byte, 20))))
	packet := append(append(make([]byte, 12), 0x08, 0x00), ip.Bytes()...) // behind no addresses the EtherType of IPv4
	return set, func(times int) {
		t.Helper()
		for range times {
			verdict, err := coll.Programs[bpf.FromContainer].Run(&ebpf.RunOptions{Data: packet})
			must(t, err)
			if verdict != 2 { // TC_ACT_SHOT
				t.Fatalf("from_container said %d, want a drop", verdict)
			}
		}
	}
}

func TestCountersAndEvents(t *testing.T) {
	nstest.Pin(t, 0) // the programs count, and sample, for each CPU
	set, drop := dropper(t)
	if counts, err := set.Counters.Read(); err != nil || len(counts) != 0 {
		t.Fatalf("counters of an idle datapath: %v, %v", counts, err)
	}
	if taken, err := set.Events.Take(); err != nil || len(taken) != 0 {
		t.Fatalf("events of an idle datapath: %v, %v", taken, err)
	}
	before := time.Now()
	drop(7) // sampled: 1, 2 and 4

	counts, err := set.Counters.Read()
	must(t, err)
	want := []Count{{"from_container", "drop", "container_source", 7, 7 * 54}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error(diff)
	}
	usage, err := set.Counters.Usage()
	must(t, err)
	if usage != (Usage{1, 512}) {
		t.Errorf("usage of counters %+v", usage)
	}
	usage, err = set.Events.Usage()
	must(t, err)
	if usage.Used != 3*(80+8) {
		t.Errorf("usage of events %+v", usage)
	}
	taken, err := set.Events.Take()
	must(t, err)
	if len(taken) != 3 {
		t.Fatalf("%d events, want 3: %+v", len(taken), taken)
	}
	for i, count := range []uint64{1, 2, 4} {
		e := taken[i].Value
		if d := e.Time.Sub(before); d < -time.Second || d > time.Minute {
			t.Errorf("event at %s, after a test at %s", e.Time, before)
		}
		want := Event{Time: e.Time, Program: "from_container", Verdict: "drop", Reason: "container_source", Count: count,
			Ifindex: 1, Len: 54, Src: netip.MustParseAddr("172.245.0.2"), Dst: netip.MustParseAddr("172.246.0.2")}
		if e != want || taken[i].Key != i {
			t.Errorf("event %d is %+v, want %+v", taken[i].Key, e, want)
		}
	}
	if taken, err := set.Events.Take(); err != nil || len(taken) != 0 {
		t.Errorf("events taken twice: %v, %v", taken, err)
	}
}

func TestEventsRead(t *testing.T) {
	set, drop := dropper(t)
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan Event), make(chan error)
	go func() {
		done <- set.Events.Read(ctx, func(e Event) error { seen <- e; return nil })
	}()
	for range 2 { // each is sampled: the first and the second, on whatever CPU
		drop(1)
		if e := <-seen; e.Reason != "container_source" {
			t.Errorf("event %+v", e)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Read after its context was done: %v", err)
	}
}

func TestEventsReadStops(t *testing.T) {
	set, drop := dropper(t)
	drop(1)
	stop := errors.New("enough")
	if err := set.Events.Read(t.Context(), func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Read = %v, want its callback's error", err)
	}
}

// pinAll pins maps as the loader does, in a bpffs that only this test's thread has: it goes with it.
func pinAll(t *testing.T, maps map[string]*ebpf.Map) string {
	t.Helper()
	dir := t.TempDir()
	runtime.LockOSThread() // and never unlocked
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("bpffs", dir, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	for name, m := range maps {
		if name == rodata {
			name = settingsName
		}
		clone, err := m.Clone()
		must(t, err)
		must(t, errors.Join(clone.Pin(filepath.Join(dir, name)), clone.Close()))
	}
	return dir
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestOpenPinned(t *testing.T) {
	maps := newMaps(t, settingsFor(testNetwork, testBits), nil)
	route := Route{Prefix: netip.MustParsePrefix("172.246.0.0/24"), Host: 2}
	must(t, setOf(t, maps).Routes.Put(route))
	dir := pinAll(t, maps)

	before := openFDs(t)
	set, err := OpenPinned(dir)
	must(t, err)
	all, err := set.Routes.All()
	must(t, err)
	if diff := cmp.Diff([]Route{route}, all, comparePrefixes); diff != "" {
		t.Error(diff)
	}
	if err := set.Nodes.Put(netip.MustParseAddr("192.168.32.246"), 2); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Put to a set opened for reading: %v", err)
	}
	if _, err := set.Events.Take(); err != nil {
		t.Error(err)
	}
	must(t, set.Close())
	if after := openFDs(t); after != before {
		t.Errorf("%d files open, %d before", after, before)
	}

	must(t, os.Remove(filepath.Join(dir, "fdb")))
	if _, err := OpenPinned(dir); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoDatapath) {
		t.Errorf("without fdb: %v", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d files open after a failure, %d before", after, before)
	}
	if _, err := OpenPinned(filepath.Join(dir, "none")); !errors.Is(err, ErrNoDatapath) {
		t.Errorf("without a directory: %v", err)
	}
}

// TestAdoptPinned: what is written through the pins is in the maps.
func TestAdoptPinned(t *testing.T) {
	maps := newMaps(t, settingsFor(testNetwork, testBits), nil)
	set, err := AdoptPinned(pinAll(t, maps))
	must(t, err)
	node := netip.MustParseAddr("192.168.32.246")
	must(t, set.Nodes.Put(node, 2))
	must(t, set.Close())
	all, err := setOf(t, maps).Nodes.All()
	must(t, err)
	if all[node] != 2 {
		t.Errorf("nodes %v, want %s in them", all, node)
	}
}

func TestNewSetRefuses(t *testing.T) {
	maps := newMaps(t, settingsFor(testNetwork, testBits), nil)
	nodes := maps["nodes"]
	maps["nodes"] = maps["neigh"]
	_, err := NewSet(maps)
	want := "map nodes is a Hash of 20 and 8 bytes, not a Hash of 16 and 4: made by another version of bpfnet?"
	if err == nil || err.Error() != want {
		t.Errorf("NewSet with a map of another layout: %v", err)
	}
	maps["nodes"] = nodes
	delete(maps, "events")
	if _, err := NewSet(maps); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("NewSet without events: %v", err)
	}

	s := settingsFor(testNetwork, testBits)
	s.Ipv4.IndexBase[1]++
	if _, err := NewSet(newMaps(t, s, nil)); err == nil {
		t.Error("NewSet took an index that begins inside a prefix")
	}
}
