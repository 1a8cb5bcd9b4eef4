// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
)

// batchLen is how many packets of one program and world are run before their counters and events are looked at.
const batchLen = 128

// fuzzed are the programs, by the names of the subtests, and the worlds they are run in: more in a long run, for to load
// one takes as long as 50,000 packets.
var fuzzed = []struct {
	name            string
	program         bpf.DatapathProgram
	worlds, besides []*world
}{
	{"from_container", bpf.DatapathProgramPROGRAM_FROM_CONTAINER, concatenated(dualWorlds, []*world{lab, natted}), concatenated(moreDualWorlds, []*world{second, bare, blind})},
	{"from_network", bpf.DatapathProgramPROGRAM_FROM_NETWORK, concatenated(dualWorlds, []*world{lab, natted}), concatenated(moreDualWorlds, []*world{second, bare, blind, native})},
	{"from_host", bpf.DatapathProgramPROGRAM_FROM_HOST, concatenated(dualWorlds, []*world{lab}), concatenated(moreDualWorlds, []*world{second, bare})},
	{"from_overlay", bpf.DatapathProgramPROGRAM_FROM_OVERLAY, []*world{lab, dual}, nil},
	{"from_veth", bpf.DatapathProgramPROGRAM_FROM_VETH, []*world{lab, second, dual}, nil},
	{"from_wire", bpf.DatapathProgramPROGRAM_FROM_WIRE, []*world{dualNative, dualSpread, native}, []*world{dualShy, onlyIPv6, dual, generic}},
}

func concatenated(parts ...[]*world) (all []*world) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// TestFuzz gives each program packets that nobody has thought of, and compares all that comes of them with the model.
// The environment says how many packets for each program (BPFNET_PACKETS), from which seed (BPFNET_SEED) and which batch
// on (BPFNET_BATCH), in the worlds of a long run (BPFNET_LONG), and by how many processors (BPFNET_WORKERS).
func TestFuzz(t *testing.T) {
	seed, first := numberFrom(t, "BPFNET_SEED", uint64(time.Now().UnixNano())), numberFrom(t, "BPFNET_BATCH", 0)
	packets, workers := numberFrom(t, "BPFNET_PACKETS", 15_000), numberFrom(t, "BPFNET_WORKERS", 1)
	long := packets >= 1_000_000 || os.Getenv("BPFNET_LONG") != ""
	t.Logf("BPFNET_SEED=%d", seed)
	for _, p := range fuzzed {
		t.Run(p.name, func(t *testing.T) {
			f := fuzzer{
				seed: seed, first: first, batches: (packets + batchLen - 1) / batchLen,
				subtest: p.name, program: p.program, worlds: p.worlds,
			}
			if long {
				f.worlds, f.environment = concatenated(p.worlds, p.besides), "BPFNET_LONG=1 "
			}
			start := time.Now()
			must(t, f.run(t, int(workers)))
			took := time.Since(start)
			t.Logf("%d packets in %.1f s, %.0f a second", f.ran.Load(), took.Seconds(), float64(f.ran.Load())/took.Seconds())
			f.reached.check(t, p.program, packets >= 10_000, long)
		})
	}
}

func numberFrom(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("read %s: %v", variable, err)
	}
	return n
}

// fuzzer is a run of one program.
type fuzzer struct {
	seed, first, batches uint64
	subtest, environment string
	program              bpf.DatapathProgram
	worlds               []*world
	taken, ran           atomic.Uint64
	reached              coverage
}

// run runs the batches, by one worker with the machines of the process, by more with machines of their own.
func (f *fuzzer) run(t *testing.T, workers int) error {
	if workers == 1 {
		return f.work(t, 0, func(w *world) (*machine, error) { return load(t, w), nil })
	}
	var group errgroup.Group
	for i := range workers {
		own := map[*world]*machine{}
		t.Cleanup(func() {
			for _, m := range own {
				closeMachine(t, m)
			}
		})
		group.Go(func() error {
			return f.work(t, i, func(w *world) (m *machine, err error) {
				if own[w] == nil {
					own[w], err = newMachine(w)
				}
				return own[w], err
			})
		})
	}
	return group.Wait()
}

// work takes batches until there are no more. Drops are sampled by their number on each CPU: so it stays on one.
func (f *fuzzer) work(t *testing.T, worker int, machineOf func(*world) (*machine, error)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := pinWorker(worker)
	if err != nil {
		return err
	}
	craft, reached := newCrafter(), coverage{}
	for {
		i := f.taken.Add(1) - 1
		if i >= f.batches {
			f.reached.add(&reached)
			return back()
		}
		i += f.first
		m, err := machineOf(f.worlds[i%uint64(len(f.worlds))])
		if err == nil {
			err = f.batch(m, craft, i, &reached)
		}
		if err != nil {
			f.taken.Store(f.batches) // the others stop too
			return errors.Join(err, back())
		}
		if ran := f.ran.Add(batchLen); ran/1_000_000 != (ran-batchLen)/1_000_000 {
			t.Logf("%d million packets", ran/1_000_000)
		}
	}
}

// pinWorker keeps the thread on one of its processors.
func pinWorker(worker int) (back func() error, err error) {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("get affinity: %w", err)
	}
	for cpu, skip := 0, worker%before.Count(); ; cpu++ {
		if !before.IsSet(cpu) {
			continue
		}
		if skip == 0 {
			one.Set(cpu)
			break
		}
		skip--
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("set affinity: %w", err)
	}
	return func() error { return unix.SchedSetaffinity(0, &before) }, nil
}

// batch runs a batch, and of one that fails the packet that does, made as simple as it will be.
func (f *fuzzer) batch(m *machine, craft *crafter, i uint64, reached *coverage) error {
	if err := m.begin(); err != nil {
		return err
	}
	var expected tally
	craft.start(m.world, f.seed, i<<8|uint64(f.program))
	for range batchLen {
		a := craft.next(f.program)
		want, err := m.agree(f.program, a)
		if err != nil {
			return f.failure(m, a, i, err)
		}
		expected.add(f.program, want, a)
		reached.count(f.program, want.reason, a)
	}
	failed := m.matches(&expected)
	if failed == nil {
		return nil
	}
	craft.start(m.world, f.seed, i<<8|uint64(f.program))
	for range batchLen {
		a := craft.next(f.program)
		if err := m.alone(f.program, a); err != nil {
			return f.failure(m, a, i, err)
		}
	}
	return f.failure(m, arrival{}, i, fmt.Errorf("the batch, but no packet of it alone: %w", failed))
}

func (f *fuzzer) failure(m *machine, a arrival, i uint64, err error) error {
	simple := m.simplify(f.program, a)
	if shorter := m.alone(f.program, simple); shorter != nil {
		err = shorter
	}
	return fmt.Errorf("world %q, %d bytes, GSO size %d, ifindex %d, mark %#x: %w\nsimplified: % x\nrepeat: "+
		"%sBPFNET_SEED=%d BPFNET_BATCH=%d BPFNET_PACKETS=%d go test -tags root -count 1 -run '^TestFuzz$/^%s$' ./test/packet",
		m.name, len(simple.frame), simple.gsoSize, simple.ifindex, simple.mark, err, simple.frame, f.environment, f.seed, i, batchLen, f.subtest)
}

// alone compares all there is to see of one packet.
func (m *machine) alone(program bpf.DatapathProgram, a arrival) error {
	if err := m.begin(); err != nil {
		return err
	}
	want, err := m.agree(program, a)
	if err != nil {
		moved, _ := m.moved()
		return fmt.Errorf("the model says %s, counted was %s: %w", name(want.reason), counterNames(moved), err)
	}
	var expected tally
	expected.add(program, want, a)
	return m.matches(&expected)
}

// simplify makes a packet that fails shorter, and zero where it can be, as long as it fails.
func (m *machine) simplify(program bpf.DatapathProgram, a arrival) arrival {
	try := func(b arrival) bool {
		if !b.runnable() || m.alone(program, b) == nil {
			return false
		}
		a = b
		return true
	}
	with := func(change func(*arrival)) bool {
		b := a
		change(&b)
		return try(b)
	}
	with(func(b *arrival) { b.gsoSize = 0 })
	with(func(b *arrival) { b.mark = 0 })
	for cut := len(a.frame) / 2; cut > 0; cut /= 2 {
		shorter := func(b *arrival) { b.frame = b.frame[:max(0, len(b.frame)-cut)] }
		for with(shorter) {
			continue
		}
	}
	for size := 64; size > 0; size /= 4 {
		for at := 0; at+size <= len(a.frame); at += size {
			with(func(b *arrival) { b.frame = patched(b.frame, patch{at, make([]byte, size)}) })
		}
	}
	return a
}

// tally is what counters and events have to say of some packets, in their order.
type tally struct {
	counters [counterMax]bpf.DatapathCounter
	events   []bpf.DatapathEvent
}

func (s *tally) add(program bpf.DatapathProgram, f fate, a arrival) {
	c := &s.counters[counterKey(program, f.reason)]
	c.Packets++
	c.Bytes += uint64(len(a.frame))
	if n := c.Packets; action(f.reason) == actShot && n&(n-1) == 0 {
		s.events = append(s.events, bpf.DatapathEvent{
			Count: n, Ifindex: a.ifindex, Len: uint32(len(a.frame)), Src: seen(f.src), Dst: seen(f.dst), OuterSrc: seen(f.outer),
			Program: program, Reason: f.reason,
		})
	}
}

// matches compares counters and events since begin() with what they have to say.
func (m *machine) matches(want *tally) error {
	moved, err := m.moved()
	if err != nil {
		return err
	}
	for key, c := range want.counters {
		if moved[key] != c {
			return fmt.Errorf("counted %s, the model has %+v of %s", counterNames(moved), c, counterName(key))
		}
	}
	events, err := m.takeEvents()
	if err != nil {
		return err
	}
	for i := range events {
		events[i].Time = 0
	}
	if len(events) == 0 && len(want.events) == 0 {
		return nil
	}
	if diff := cmp.Diff(fmt.Sprintf("%+v", want.events), fmt.Sprintf("%+v", events)); diff != "" {
		return fmt.Errorf("events (-model +program):\n%s", diff)
	}
	return nil
}
