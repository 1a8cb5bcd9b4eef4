// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestEventsSampled: a flood of drops gives an event at each power of two, then every 65,536th.
func TestEventsSampled(t *testing.T) {
	pinToCPU(t, 0) // the count is each CPU's
	m := load(t, lab)
	must(t, m.begin())
	const drops = 3*65536 + 1
	spoofed := fromC1(datagram{src: c2, dst: remote2})
	var got []uint64
	for range drops {
		_, _, err := m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, spoofed)
		must(t, err)
	}
	events, err := m.takeEvents()
	must(t, err)
	for _, e := range events {
		got = append(got, e.Count)
	}
	want := []uint64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 196608}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts with an event (-want +got):\n%s", diff)
	}
	for i := 1; i < len(events); i++ {
		if events[i].Time < events[i-1].Time {
			t.Errorf("event %d is older than the one before", i)
		}
	}
	key := counterKey(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, bpf.DatapathReasonDROP_CONTAINER_SOURCE)
	moved, err := m.moved()
	must(t, err)
	if moved[key].Packets != drops || len(moved) != 1 {
		t.Errorf("counters %v, want %d drops alone", counterNames(moved), drops)
	}
}

// TestEventsUnread: with nobody reading, drops are still drops, and counted.
func TestEventsUnread(t *testing.T) {
	m := load(t, lab)
	spoofed := fromC1(datagram{src: c2, dst: remote2})
	must(t, m.begin())
	room := m.events.BufferSize() / (80 + 8) // an event, and what the ring buffer puts before it
	for range room + 8 {
		must(t, m.zero()) // every drop is the first
		verdict, _, err := m.run(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, spoofed)
		must(t, err)
		moved, err := m.moved()
		must(t, err)
		if verdict != actShot || len(moved) != 1 {
			t.Fatalf("verdict %d, counters %s", verdict, counterNames(moved))
		}
	}
	events, err := m.takeEvents()
	must(t, err)
	if len(events) < room-8 || len(events) > room {
		t.Errorf("%d events in a buffer for %d", len(events), room)
	}
}

func pinToCPU(t *testing.T, cpu int) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	one.Set(cpu)
	must(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Errorf("return to all CPUs: %v", err)
			return // still locked: the thread ends with its goroutine
		}
		runtime.UnlockOSThread()
	})
}
