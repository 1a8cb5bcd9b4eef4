// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/bpfnet/bpfnet/bpf"
)

// machine is a world, loaded: its programs can be run.
type machine struct {
	*world
	collection *ebpf.Collection
	programs   map[bpf.DatapathProgram]*ebpf.Program
	events     *ringbuf.Reader
	counted    [counterMax]bpf.DatapathCounter // what the counters are known to hold
	context    []byte
	contextXDP []byte
	contextOut []byte
	out        []byte
}

const (
	reasonMax  = int(bpf.DatapathReasonREASON_MAX)
	counterMax = int(bpf.DatapathProgramPROGRAM_MAX) * reasonMax

	// What a test run takes (net/bpf/test_run.c): of IPv4 no less than a whole header, and at most a
	// page, less skb_shared_info, the headroom, and a header to push.
	testRunMin = etherLen + ipv4Len
	frameMax   = 3500
)

var machines = struct {
	sync.Mutex
	of map[*world]*machine
}{of: map[*world]*machine{}}

// load returns the machine of a world. It is kept for the other tests of the process: loading takes
// a thousand times as long as a packet.
func load(t testing.TB, w *world) *machine {
	t.Helper()
	machines.Lock()
	defer machines.Unlock()
	if m := machines.of[w]; m != nil {
		return m
	}
	m, err := newMachine(w)
	if err != nil {
		t.Fatalf("load world %s: %+v", w.name, err)
	}
	machines.of[w] = m
	return m
}

func newMachine(w *world) (*machine, error) {
	m, err := emptyMachine(w, w.settings())
	if err != nil {
		return nil, err
	}
	if err := w.fill(m.collection.Maps); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// emptyMachine is loaded with the settings, its maps still empty.
func emptyMachine(w *world, settings *bpf.DatapathSettings) (*machine, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	if err = spec.Variables[bpf.DatapathVarConfig].Set(settings); err != nil {
		return nil, fmt.Errorf("set settings: %w", err)
	}
	spec.Maps[bpf.DatapathMapRouteIndex].MaxEntries = max(1, settings.Ipv4.IndexCount+settings.Ipv6.IndexCount)
	spec.Maps[bpf.DatapathMapCpus].MaxEntries = uint32(ebpf.MustPossibleCPU())
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	events, err := ringbuf.NewReader(all.Maps[bpf.DatapathMapEvents])
	if err != nil {
		all.Close()
		return nil, err
	}
	return &machine{
		world: w, collection: all, events: events,
		programs: map[bpf.DatapathProgram]*ebpf.Program{
			bpf.DatapathProgramPROGRAM_FROM_CONTAINER: all.Programs[bpf.DatapathProgFromContainer],
			bpf.DatapathProgramPROGRAM_FROM_NETWORK:   all.Programs[bpf.DatapathProgFromNetwork],
			bpf.DatapathProgramPROGRAM_FROM_HOST:      all.Programs[bpf.DatapathProgFromHost],
			bpf.DatapathProgramPROGRAM_FROM_OVERLAY:   all.Programs[bpf.DatapathProgFromOverlay],
			bpf.DatapathProgramPROGRAM_FROM_VETH:      all.Programs[bpf.DatapathProgFromVeth],
			bpf.DatapathProgramPROGRAM_FROM_WIRE:      all.Programs[bpf.DatapathProgFromWire],
		},
		context: make([]byte, contextLen), contextXDP: make([]byte, xdpContextLen), contextOut: make([]byte, contextLen), out: make([]byte, frameMax+256),
	}, nil
}

func (m *machine) Close() error {
	m.collection.Close()
	return m.events.Close()
}

// Where struct __sk_buff of include/uapi/linux/bpf.h has what a test may set.
const (
	contextLen     = 192
	contextMark    = 8
	contextIfindex = 40
	contextGSOSegs = 164
	contextGSOSize = 176
)

// run runs a program on a packet, once. The bytes are good until the next run.
func (m *machine) run(program bpf.DatapathProgram, a arrival) (int32, []byte, error) {
	if program == bpf.DatapathProgramPROGRAM_FROM_WIRE {
		return m.runXDP(a)
	}
	binary.NativeEndian.PutUint32(m.context[contextMark:], a.mark)
	binary.NativeEndian.PutUint32(m.context[contextIfindex:], a.ifindex)
	binary.NativeEndian.PutUint32(m.context[contextGSOSize:], uint32(a.gsoSize))
	segments := uint32(0)
	if a.gsoSize != 0 {
		segments = (uint32(len(a.frame)) + uint32(a.gsoSize) - 1) / uint32(a.gsoSize)
	}
	binary.NativeEndian.PutUint32(m.context[contextGSOSegs:], segments)
	return runOnce(m.programs[program].FD(), a.frame, m.out, m.context, m.contextOut)
}

// Where struct xdp_md has what a test may set.
const (
	xdpContextLen     = 24
	xdpContextDataEnd = 4
	xdpContextIfindex = 12
)

// runXDP runs from_wire on a frame.
func (m *machine) runXDP(a arrival) (int32, []byte, error) {
	clear(m.contextOut)
	binary.NativeEndian.PutUint32(m.contextXDP[xdpContextDataEnd:], uint32(len(a.frame)))
	binary.NativeEndian.PutUint32(m.contextXDP[xdpContextIfindex:], a.ifindex)
	return runOnce(m.programs[bpf.DatapathProgramPROGRAM_FROM_WIRE].FD(), a.frame, m.out, m.contextXDP, nil)
}

// mark is skb->mark as the last run left it.
func (m *machine) mark() uint32 { return binary.NativeEndian.Uint32(m.contextOut[contextMark:]) }

// checked is whether the last run left the packet marked as checked.
func (m *machine) checked() bool { return m.mark()&markChecked == markChecked }

// counter reads one counter, summed over the CPUs.
func (m *machine) counter(key int) (bpf.DatapathCounter, error) {
	var each []bpf.DatapathCounter
	if err := m.collection.Maps[bpf.DatapathMapCounters].Lookup(uint32(key), &each); err != nil {
		return bpf.DatapathCounter{}, fmt.Errorf("read counter %d: %w", key, err)
	}
	return sum(each), nil
}

func sum(each []bpf.DatapathCounter) bpf.DatapathCounter {
	var sum bpf.DatapathCounter
	for _, c := range each {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum
}

// moved reads all counters and returns those that moved since they were last known.
func (m *machine) moved() (map[int]bpf.DatapathCounter, error) {
	cpus := ebpf.MustPossibleCPU()
	keys, each := make([]uint32, counterMax), make([]bpf.DatapathCounter, counterMax*cpus)
	_, err := m.collection.Maps[bpf.DatapathMapCounters].BatchLookup(new(ebpf.MapBatchCursor), keys, each, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // which only says that it was the last batch
		return nil, fmt.Errorf("read counters: %w", err)
	}
	moved := map[int]bpf.DatapathCounter{}
	for i, key := range keys {
		now, before := sum(each[i*cpus:(i+1)*cpus]), m.counted[key]
		if now != before {
			moved[int(key)] = bpf.DatapathCounter{Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes}
			m.counted[key] = now
		}
	}
	return moved, nil
}

// begin forgets what other tests have left in counters and events: the next drop is the first, and
// the first is sampled.
func (m *machine) begin() error {
	_, err := m.takeEvents()
	return errors.Join(err, m.zero())
}

// zero sets the counters to zero that are not.
func (m *machine) zero() error {
	if _, err := m.moved(); err != nil {
		return err
	}
	for key, c := range m.counted {
		if c == (bpf.DatapathCounter{}) {
			continue
		}
		each := make([]bpf.DatapathCounter, ebpf.MustPossibleCPU())
		if err := m.collection.Maps[bpf.DatapathMapCounters].Put(uint32(key), each); err != nil {
			return fmt.Errorf("zero counter %d: %w", key, err)
		}
		m.counted[key] = bpf.DatapathCounter{}
	}
	return nil
}

// takeEvents empties the ring buffer.
func (m *machine) takeEvents() ([]bpf.DatapathEvent, error) {
	var events []bpf.DatapathEvent
	for m.events.AvailableBytes() > 0 {
		record, err := m.events.Read()
		if err != nil {
			return nil, fmt.Errorf("read event: %w", err)
		}
		var e bpf.DatapathEvent
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &e); err != nil {
			return nil, fmt.Errorf("decode event: %w", err)
		}
		events = append(events, e)
	}
	return events, nil
}

func counterKey(program bpf.DatapathProgram, reason bpf.DatapathReason) int {
	return int(program)*reasonMax + int(reason)
}

// wire is an address as the maps have it; the zero Addr is all zero.
func wire(a netip.Addr) bpf.DatapathAddr {
	var out bpf.DatapathAddr
	if a.IsValid() {
		b := a.As16()
		for i := range out.Word {
			out.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
		}
	}
	return out
}
