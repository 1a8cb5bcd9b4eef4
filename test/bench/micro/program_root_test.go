// SPDX-License-Identifier: Apache-2.0

//go:build root

package micro

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// What the programs return (include/uapi/linux/pkt_cls.h; tcx's TCX_NEXT is -1; include/uapi/linux/bpf.h).
const (
	redirected = 7
	next       = 0xffffffff
	passed     = 2 // XDP_PASS
)

var programs = []struct {
	name    string
	packet  func() packet
	verdict uint32
	grown   int // bytes that the packet becomes longer by
}{
	{bpf.FromContainer, fromContainer, redirected, vxlanLen},
	{bpf.FromNetwork, fromNetwork, redirected, -vxlanLen},
	{bpf.FromHost, fromHost, redirected, vxlanLen},
	{bpf.FromOverlay, fromOverlay, next, 0},
	{bpf.FromVeth, fromHost, redirected, vxlanLen},
	{bpf.FromWire, fromNetwork, passed, -vxlanLen},
}

var clusterSizes = []int{1, 1_000, 100_000, 1_000_000}

// spreads are how many of its peers a node talks with: one, as many as fit the
// caches, and all.
var spreads = []struct {
	name  string
	peers int
}{
	{"one peer", 1},
	{"100 peers", 100},
	{"any peer", math.MaxInt},
}

// BenchmarkPrograms runs each program on one fresh packet after another, in
// clusters of several sizes; each packet is from or to any one of some peers.
//
//	prog-ns   time of a run, less that of an empty program
//	insns     instructions of the program, as the verifier has left them
//	jited-B   bytes of machine code
//
// (ns/op is the system call's.) Between two runs the kernel copies packets, so
// the caches are colder than under load; and with "any peer" of a large cluster,
// the packet's peer is in no cache.
func BenchmarkPrograms(b *testing.B) {
	for _, size := range clusterSizes {
		for _, p := range programs {
			for _, spread := range spreads {
				if spread.peers > 1 && (size == 1 || p.packet().retarget == nil) {
					continue // the same as one peer
				}
				b.Run(fmt.Sprintf("%s/routes=%d/%s", p.name, size, spread.name), func(b *testing.B) {
					d := filled(b, size)
					benchmarkProgram(b, d.programs.Programs[p.name], p.packet(), p.verdict, some(spread.peers, size))
				})
			}
		}
	}
}

// some picks peers of a cluster, numbered from 1, by chance.
func some(n, size int) []int {
	all := rand.New(rand.NewPCG(3, 4)).Perm(size)
	picked := all[:min(n, size)]
	for i := range picked {
		picked[i]++
	}
	return picked
}

func benchmarkProgram(b *testing.B, p *ebpf.Program, in packet, verdict uint32, peers []int) {
	b.Helper()
	r := newRunner(p, in)
	defer r.close()
	empty := emptyTime(b, p.Type(), in)
	random := rand.New(rand.NewPCG(1, 2))
	var times []uint32
	for b.Loop() {
		if in.retarget != nil {
			in.retarget(r.frame, peers[random.IntN(len(peers))])
		}
		got, ns, err := r.run()
		if err != nil {
			b.Fatal(err)
		}
		if got != verdict {
			b.Fatalf("verdict %#x, want %#x", got, verdict)
		}
		times = append(times, ns)
	}
	b.ReportMetric(middle(times)-empty, "prog-ns")
	reportSize(b, p)
}

// emptyTime is the time of a program of that type that does nothing.
func emptyTime(b *testing.B, of ebpf.ProgramType, in packet) float64 {
	b.Helper()
	p, err := emptyProgram(of)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	r := newRunner(p, in)
	defer r.close()
	times := make([]uint32, 1000)
	for i := range times {
		if _, times[i], err = r.run(); err != nil {
			b.Fatal(err)
		}
	}
	return middle(times)
}

// middle is the mean of the middle half: finer than the clock, whose steps may
// be of 10 ns, and without the runs that an interrupt fell into.
func middle(times []uint32) float64 {
	slices.Sort(times)
	half := times[len(times)/4 : len(times)-len(times)/4]
	sum := 0.0
	for _, ns := range half {
		sum += float64(ns)
	}
	return sum / float64(len(half))
}

func reportSize(b *testing.B, p *ebpf.Program) {
	b.Helper()
	info, err := p.Info()
	if err != nil {
		b.Fatal(err)
	}
	insns, err := info.Instructions()
	if err != nil {
		b.Fatal(err)
	}
	jited, err := info.JitedSize()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(insns)), "insns")
	b.ReportMetric(float64(jited), "jited-B")
}

// TestPackets: the benchmark's packets take the way that they stand for.
func TestPackets(t *testing.T) {
	const size = 10
	d, err := newDatapath(size)
	if err != nil {
		t.Fatal(err)
	}
	defer d.programs.Close()
	if err := d.fill(size); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		in := p.packet()
		r := newRunner(d.programs.Programs[p.name], in)
		for n := 1; n <= size; n++ {
			if in.retarget != nil {
				in.retarget(r.frame, n)
			}
			if verdict, _, err := r.run(); err != nil || verdict != p.verdict || r.grown() != p.grown {
				t.Errorf("%s, peer %d: verdict %#x, %d bytes more, error %v, want %#x and %d", p.name, n, verdict, r.grown(), err, p.verdict, p.grown)
			}
		}
		r.close()
	}
}
