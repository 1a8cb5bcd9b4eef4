// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// Counters are the packets by program and reason, the programs' to write.
type Counters struct{ m *ebpf.Map }

// Count is how many packets left a program for one reason, on all CPUs, since
// the maps were made.
type Count struct {
	Program string // "from_network"
	Verdict string // "forward", "pass" or "drop"
	Reason  string // "unknown_host"
	Packets uint64 // a superpacket counts once
	Bytes   uint64 // as the program got them, Ethernet header included
}

// Read is every count that is not zero, in the order of the C enums.
func (c *Counters) Read() ([]Count, error) {
	names, err := loadNames()
	if err != nil {
		return nil, err
	}
	var counts []Count
	var perCPU []bpf.DatapathCounter
	for i := range c.m.MaxEntries() {
		if err := c.m.Lookup(i, &perCPU); err != nil {
			return counts, fmt.Errorf("read map counters: %w", err)
		}
		count := Count{}
		for _, cpu := range perCPU {
			count.Packets += cpu.Packets
			count.Bytes += cpu.Bytes
		}
		if count.Packets == 0 {
			continue
		}
		const reasons = uint32(bpf.DatapathReasonREASON_MAX)
		count.Program = names.program(bpf.DatapathProgram(i / reasons))
		count.Verdict, count.Reason = names.reason(bpf.DatapathReason(i % reasons))
		counts = append(counts, count)
	}
	return counts, nil
}

// Usage counts the pairs of program and reason that are not zero.
func (c *Counters) Usage() (Usage, error) {
	counts, err := c.Read()
	return Usage{Used: len(counts), Max: c.m.MaxEntries()}, err
}
