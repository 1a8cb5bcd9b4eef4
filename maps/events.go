// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
)

// Events are sampled drops, the programs' to write. Reading takes them away,
// for every reader; there should be one at a time.
type Events struct{ m *ebpf.Map }

// Event is one drop of the many that bpf/include/verdict.h samples from.
type Event struct {
	Time     time.Time
	Program  string     // "from_network"
	Verdict  string     // "drop"
	Reason   string     // "unknown_host"
	Count    uint64     // packets of this program and reason so far on that CPU, this one included
	Ifindex  uint32     // where the program ran
	Len      uint32     // bytes, Ethernet header included
	Src, Dst netip.Addr // of the innermost IP header reached; zero if none was
	OuterSrc netip.Addr // of the outer IP header; zero where there is none
}

// Read hands each event to f, and waits for more, until ctx is done (then the
// error is nil) or f fails. Records that do not decode are left out.
func (e *Events) Read(ctx context.Context, f func(Event) error) (err error) {
	r, names, err := e.open()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // ends ReadInto; its error comes with the second Close
	defer func() {
		stop()
		err = errors.Join(err, r.Close())
	}()
	for {
		record, err := r.Read()
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if entry := names.decodeEvent(record.RawSample, bootTime()); entry.Bad == nil {
			if err := f(entry.Value); err != nil {
				return err
			}
		}
	}
}

// Take is what is there now, in the order of the ring, without waiting. The
// keys number the records.
func (e *Events) Take() (entries []Entry[int, Event], err error) {
	r, names, err := e.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	r.SetDeadline(time.Now())
	boot := bootTime()
	for {
		record, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return entries, nil
		}
		if err != nil {
			return entries, fmt.Errorf("read events: %w", err)
		}
		entry := names.decodeEvent(record.RawSample, boot)
		entry.Key = len(entries)
		entries = append(entries, entry)
	}
}

// Usage is the bytes of the ring that hold records nobody has read.
func (e *Events) Usage() (u Usage, err error) {
	r, _, err := e.open()
	if err != nil {
		return Usage{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return Usage{Used: r.AvailableBytes(), Max: e.m.MaxEntries()}, nil
}

func (e *Events) open() (*ringbuf.Reader, *enumNames, error) {
	names, err := loadNames()
	if err != nil {
		return nil, nil, err
	}
	r, err := ringbuf.NewReader(e.m)
	if err != nil {
		return nil, nil, fmt.Errorf("open map events: %w", err)
	}
	return r, names, nil
}

func (n *enumNames) decodeEvent(record []byte, boot time.Time) Entry[int, Event] {
	var w bpf.DatapathEvent
	if _, err := binary.Decode(record, binary.NativeEndian, &w); err != nil {
		reason := fmt.Errorf("record of %d bytes, not %d", len(record), binary.Size(w))
		return Entry[int, Event]{Bad: &BadEntry{Reason: reason, Value: record}}
	}
	event := Event{
		Time:     boot.Add(time.Duration(w.Time)),
		Program:  n.program(w.Program),
		Count:    w.Count,
		Ifindex:  w.Ifindex,
		Len:      w.Len,
		Src:      NetipAddr(w.Src),
		Dst:      NetipAddr(w.Dst),
		OuterSrc: NetipAddr(w.OuterSrc),
	}
	event.Verdict, event.Reason = n.reason(w.Reason)
	return Entry[int, Event]{Value: event}
}

// bootTime is when bpf_ktime_get_ns, CLOCK_MONOTONIC, was zero.
func bootTime() time.Time {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(t.Nano()))
}
