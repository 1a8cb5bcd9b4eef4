// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/bpf"
)

// compare runs a program on a packet and says where it and the model differ. It reads one counter,
// the one that has to move: a program counts once, so no other can have moved if that one did.
// recount() tells whether that is so.
func (m *machine) compare(program bpf.DatapathProgram, a arrival) error {
	want, err := m.agree(program, a)
	return errors.Join(err, m.countOne(program, want.reason, a))
}

// agree runs a program on a packet and says where it and the model differ, but for counters and events.
func (m *machine) agree(program bpf.DatapathProgram, a arrival) (fate, error) {
	want := models[program](m.world, a)
	verdict, out, err := m.run(program, a)
	switch {
	case err != nil:
		return want, err
	case verdict != verdictOf(program, want.reason):
		return want, fmt.Errorf("verdict %d, the model's is %s", verdict, name(want.reason))
	case want.frame == nil:
		return want, nil
	case program != bpf.DatapathProgramPROGRAM_FROM_WIRE && m.mark() != want.mark(a):
		return want, fmt.Errorf("%s, mark %#x, the model's is %#x", name(want.reason), m.mark(), want.mark(a))
	}
	out, err = m.settle(want.reason, out)
	if err != nil {
		return want, fmt.Errorf("pushed header: %w\n% x", err, out)
	}
	if !bytes.Equal(out, want.frame) {
		return want, fmt.Errorf("%s (-model +program):\n%s", name(want.reason), cmp.Diff(hexLines(want.frame), hexLines(out)))
	}
	return want, nil
}

// mark is what the packet leaves with: nobody but us touches our bits, and we no others.
func (f fate) mark(a arrival) uint32 {
	switch {
	case f.checked:
		return a.mark | markChecked
	case f.reason == bpf.DatapathReasonPASS_CHECKED: // and out of the overlay
		return a.mark &^ markChecked
	}
	return a.mark
}

// countOne expects the counter to have moved by the packet.
func (m *machine) countOne(program bpf.DatapathProgram, reason bpf.DatapathReason, a arrival) error {
	key := counterKey(program, reason)
	want := m.counted[key]
	want.Packets++
	want.Bytes += uint64(len(a.frame))
	now, err := m.counter(key)
	if err != nil {
		return err
	}
	if now == want {
		m.counted[key] = now
		return nil
	}
	moved, err := m.moved()
	if err != nil {
		return err
	}
	return fmt.Errorf("the model says %s, counted was %s", name(reason), counterNames(moved))
}

// recount expects no counter to have moved but those that compare() knows of.
func (m *machine) recount() error {
	moved, err := m.moved()
	if err != nil || len(moved) == 0 {
		return err
	}
	return fmt.Errorf("counters moved that the model knows nothing of: %s", counterNames(moved))
}

func counterNames(moved map[int]bpf.DatapathCounter) string {
	var names []string
	for key, c := range moved {
		names = append(names, fmt.Sprintf("%s (%d packets, %d bytes)", counterName(key), c.Packets, c.Bytes))
	}
	return strings.Join(names, ", ")
}

// runnable says whether a test run takes the packet: of IP no less than a whole header.
func (a arrival) runnable() bool {
	if len(a.frame) < etherLen || len(a.frame) > frameMax {
		return false
	}
	switch binary.BigEndian.Uint16(a.frame[12:]) {
	case 0x0800:
		return len(a.frame) >= testRunMin
	case 0x86dd:
		return len(a.frame) >= etherLen+40
	}
	return true
}

// refit makes the lengths and the checksum of the first headers right, where they are there: a
// packet of random bytes hardly ever gets past them.
func refit(frame []byte) {
	if len(frame) < testRunMin {
		return
	}
	ip := ipHeader(frame[etherLen:])
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	if headerLen := ip.len(); ip.protocol() == protocolUDP && headerLen+udpLen <= len(ip) {
		binary.BigEndian.PutUint16(ip[headerLen+4:], uint16(len(ip)-headerLen))
	}
	if ip.len() <= len(ip) {
		ip.setChecksum()
	}
}
