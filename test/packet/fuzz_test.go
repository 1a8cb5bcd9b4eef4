// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"slices"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// The fuzz targets give packets to the programs and to the model, and compare. The fuzzer sees the
// coverage of the model: what is new to it is a new case of the rules.

func FuzzFromContainer(f *testing.F) { fuzz(f, bpf.DatapathProgramPROGRAM_FROM_CONTAINER) }
func FuzzFromNetwork(f *testing.F)   { fuzz(f, bpf.DatapathProgramPROGRAM_FROM_NETWORK) }
func FuzzFromHost(f *testing.F)      { fuzz(f, bpf.DatapathProgramPROGRAM_FROM_HOST) }
func FuzzFromVeth(f *testing.F)      { fuzz(f, bpf.DatapathProgramPROGRAM_FROM_VETH) }
func FuzzFromWire(f *testing.F)      { fuzz(f, bpf.DatapathProgramPROGRAM_FROM_WIRE) }

// fuzz runs each packet in 24 ways: in every world, by the program's link and by another, as it is
// and with right lengths. Most of what an execution costs is the fuzzer's own bookkeeping.
func fuzz(f *testing.F, program bpf.DatapathProgram) {
	for _, c := range tables()[program] {
		head := min(len(c.in.frame), headMax)
		f.Add(c.in.frame[:head], uint16(len(c.in.frame)-head), c.in.gsoSize)
	}
	worlds := slices.Concat(worlds, []*world{dual})
	if program == bpf.DatapathProgramPROGRAM_FROM_WIRE {
		worlds = []*world{native, dualNative, dualSpread}
	}
	for _, w := range worlds {
		must(f, load(f, w).begin()) // now, or its code would count as what the first packet covers
	}
	f.Fuzz(func(t *testing.T, head []byte, padding, gsoSize uint16) {
		frame := join(head, make([]byte, padding%frameMax))
		refitted := slices.Clone(frame)
		refit(refitted)
		for _, w := range worlds {
			m := load(t, w)
			for _, via := range []link{entry[program], link2} {
				m.mustCompare(t, program, arrival{frame: frame, ifindex: via.ifindex, gsoSize: gsoSize})
				m.mustCompare(t, program, arrival{frame: refitted, ifindex: via.ifindex, gsoSize: gsoSize})
			}
		}
	})
}

// headMax is how many bytes of a packet the fuzzer is given to change. It would spend its time on
// making a long payload, which tells it nothing, shorter.
const headMax = 128

func (m *machine) mustCompare(t *testing.T, program bpf.DatapathProgram, a arrival) {
	if !a.runnable() {
		return
	}
	if err := m.compare(program, a); err != nil {
		t.Fatalf("world %s, GSO size %d, ifindex %d: %v\n% x", m.name, a.gsoSize, a.ifindex, err, a.frame)
	}
}

// entry is where packets come to each program.
var entry = map[bpf.DatapathProgram]link{
	bpf.DatapathProgramPROGRAM_FROM_CONTAINER: link1,
	bpf.DatapathProgramPROGRAM_FROM_NETWORK:   uplink,
	bpf.DatapathProgramPROGRAM_FROM_HOST:      overlay,
	bpf.DatapathProgramPROGRAM_FROM_VETH:      overlay, // whose other end has any number
	bpf.DatapathProgramPROGRAM_FROM_WIRE:      uplink,
}
