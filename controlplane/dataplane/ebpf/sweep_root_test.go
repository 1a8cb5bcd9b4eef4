// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"context"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// TestResting: the entry of a node that has gone stays until a sweep. A node that comes back until then has it
// again, as it is, and keeps it; a sweep that has nothing to clear writes nothing.
func TestResting(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	a, b := fullPeer(1), fullPeer(2)
	must(t, d.Apply(stateOf(a, b)))
	index := r.index(t, "172.246.2.0/25")
	was := r.hosts(t)[index]
	must(t, d.Apply(stateOf(a)))
	r.checkServed(t, stateOf(a))
	if now := r.hosts(t)[index]; now != was {
		t.Errorf("before the sweep the entry is %+v, was %+v", now, was)
	}
	r.freeze(t, "hosts")
	apply(t, d, stateOf(a, b))
	r.check(t, stateOf(a, b))
	if now := r.index(t, "172.246.2.0/25"); now != index {
		t.Errorf("the node that came back has entry %d, had %d", now, index)
	}
}

// TestRestingAfterRestart: what a daemon has left to rest when it was killed the next one clears.
func TestRestingAfterRestart(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	must(t, d.Apply(stateOf(manyPeers(5, 5)...)))
	s := stateOf(manyPeers(1, 1)...)
	must(t, d.Apply(s))
	apply(t, r.dataplane(t), s)
	r.check(t, s)
	if n := mustGet[maps.Usage](t)(r.set.Templates.Usage()).Used; n != 1 {
		t.Errorf("%d templates, want 1", n)
	}
}

// TestFullOfResting: where all places but those in use rest, a new node gets one all the same.
func TestFullOfResting(t *testing.T) {
	r := newRig(t, sizes{"hosts": 4}) // 2 and 3 are for peers
	d := r.dataplane(t)
	must(t, d.Apply(stateOf(fullPeer(1), fullPeer(2))))
	must(t, d.Apply(stateOf(fullPeer(1))))
	for _, peers := range [][]topology.Peer{{fullPeer(1), fullPeer(3)}, {}, {fullPeer(4), fullPeer(5)}, {}, {fullPeer(6)}} {
		must(t, d.Apply(stateOf(peers...)))
		r.checkServed(t, stateOf(peers...))
	}
}

// What slowReader's program returns.
const (
	foundNone = iota
	foundSame
	foundChanged
)

// slowReader is a program that finds the entry of a node's host as from_network does,
// and looks at it a second time some milliseconds later.
func slowReader(t *testing.T, r *rig, node netip.Addr) *ebpf.Program {
	t.Helper()
	const (
		rounds  = 50_000 // the verifier follows each
		key     = -16    // of nodes
		index   = -20
		address = 8 // the part of struct host's node that has the IPv4 address
	)
	lookup := func(m string, key int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, r.coll.Maps[m].FD()), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "none"),
		}
	}
	var all asm.Instructions
	for i, word := range maps.Addr(node).Word {
		all = append(all, asm.StoreImm(asm.R10, key+4*int16(i), int64(int32(word)), asm.Word))
	}
	all = append(all, lookup("nodes", key)...)
	all = append(all, asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.StoreMem(asm.R10, index, asm.R1, asm.Word))
	all = append(all, lookup("hosts", index)...)
	all = append(all,
		asm.Mov.Reg(asm.R6, asm.R0),
		asm.LoadMem(asm.R7, asm.R6, address, asm.DWord),
		asm.Mov.Imm(asm.R8, rounds),
		asm.FnKtimeGetNs.Call().WithSymbol("again"),
		asm.Sub.Imm(asm.R8, 1), asm.JNE.Imm(asm.R8, 0, "again"),
		asm.LoadMem(asm.R1, asm.R6, address, asm.DWord),
		asm.Mov.Imm(asm.R0, foundSame), asm.JEq.Reg(asm.R1, asm.R7, "end"),
		asm.Mov.Imm(asm.R0, foundChanged), asm.Ja.Label("end"),
		asm.Mov.Imm(asm.R0, foundNone).WithSymbol("none"),
		asm.Return().WithSymbol("end"),
	)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: all, License: "GPL"})
	must(t, err)
	t.Cleanup(func() { must(t, prog.Close()) })
	return prog
}

// TestReaderKeepsItsHost: a program that has found an entry has it to its end, whether the place
// is cleared by a sweep or for a node that finds no other.
func TestReaderKeepsItsHost(t *testing.T) {
	const enough = 20 // runs that found an entry
	for name, clear := range map[string]func(*Dataplane) error{
		"sweep":    (*Dataplane).Sweep,
		"no other": func(d *Dataplane) error { return d.Apply(stateOf(fullPeer(1), fullPeer(3))) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, sizes{"hosts": 4}) // 2 and 3 are for peers
			d := r.dataplane(t)
			prog := slowReader(t, r, fullPeer(2).Node)
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			g, ctx := errgroup.WithContext(ctx)
			var found [foundChanged + 1]atomic.Int32
			nstest.Pin(t, 1) // the kernel lets nobody else run where a program does
			g.Go(func() error {
				nstest.Pin(t, 0)
				for ctx.Err() == nil {
					got, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
					if err != nil {
						return err
					}
					found[got].Add(1)
				}
				return nil
			})
			going := func() bool { return found[foundChanged].Load() == 0 && ctx.Err() == nil }
			for found[foundSame].Load() < enough && going() {
				must(t, d.Apply(stateOf(fullPeer(1), fullPeer(2))))
				before := found[foundSame].Load()
				for found[foundSame].Load() == before && going() {
					runtime.Gosched() // another run has begun, or is about to
				}
				must(t, d.Apply(stateOf(fullPeer(1))))
				must(t, clear(d))
				must(t, d.Apply(stateOf(fullPeer(1))))
			}
			stop()
			must(t, g.Wait())
			if n := found[foundChanged].Load(); n > 0 {
				t.Errorf("%d times the entry was another, or gone, while a program had it", n)
			}
		})
	}
}
