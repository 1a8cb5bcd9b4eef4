// SPDX-License-Identifier: Apache-2.0

//go:build root

package maps

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// model is routes as anyone would write them down.
type model map[netip.Prefix]uint32

func (m model) lookup(a netip.Addr) uint32 {
	best, host := -1, uint32(0)
	for p, h := range m {
		if p.Contains(a) && p.Bits() > best {
			best, host = p.Bits(), h
		}
	}
	return host
}

// routes is the model as All has it.
func (m model) routes() []Route {
	routes := make([]Route, 0, len(m))
	for p, host := range m {
		routes = append(routes, Route{Prefix: p, Host: host})
	}
	slices.SortFunc(routes, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	return routes
}

// randomPrefix is of any length around the slots', near each other so that they nest.
func randomPrefix(rng *rand.Rand) netip.Prefix {
	a := netip.AddrFrom4([4]byte{172, byte(243 + rng.IntN(6)), byte(rng.IntN(3)), byte(rng.IntN(4) << 6)})
	bits := []int{8, 14, 16, 23, 24, 24, 24, 24, 25, 26, 32}
	return netip.PrefixFrom(a, bits[rng.IntN(len(bits))]).Masked()
}

func randomAddr(rng *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{172, byte(242 + rng.IntN(8)), byte(rng.IntN(3)), byte(rng.IntN(4)<<6 + rng.IntN(2))})
}

var comparePrefixes = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

// checkRoutes compares a table with the model, and with itself.
func checkRoutes(t *testing.T, r *Routes, m model, rng *rand.Rand) {
	t.Helper()
	for range 20 {
		a := randomAddr(rng)
		got, err := r.Lookup(a)
		must(t, err)
		if want := m.lookup(a); got != want {
			t.Fatalf("Lookup(%s) = %d, want %d, of %v", a, got, want, m.routes())
		}
	}
}

func checkAll(t *testing.T, r *Routes, m model) {
	t.Helper()
	all, err := r.All()
	must(t, err)
	if diff := cmp.Diff(m.routes(), all, comparePrefixes); diff != "" {
		t.Fatalf("All: %s", diff)
	}
}

func testRoutesAgainstModel(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 0))
	maps := newMaps(t, settingsFor(testNetwork, testBits), nil)
	routes, m := setOf(t, maps).Routes, model{}
	for i := range steps {
		p, host := randomPrefix(rng), 1+rng.Uint32N(1000)
		if rng.IntN(5) < 2 {
			must(t, routes.Delete(0, p))
			delete(m, p)
		} else {
			must(t, routes.Put(Route{Prefix: p, Host: host}))
			m[p] = host
		}
		checkRoutes(t, routes, m, rng)
		switch i % 100 {
		case 50:
			checkAll(t, routes, m)
		case 99: // another daemon takes over
			routes = setOf(t, maps).Routes
		}
	}
	checkAll(t, routes, m)
	for p := range m {
		must(t, routes.Delete(0, p))
	}
	for _, usage := range []func() (Usage, error){routes.Usage, routes.IndexUsage} {
		if u, err := usage(); err != nil || u.Used != 0 {
			t.Errorf("%d entries left after all were deleted, %v", u.Used, err)
		}
	}
}

// TestRoutesModel puts and deletes at random and compares every answer with the slow obvious one.
func TestRoutesModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	testRoutesAgainstModel(t, seed, 2000)
}

func FuzzRoutesModel(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { testRoutesAgainstModel(t, seed, 200) })
}

// lookupsPerRun keeps a program looking most of the time, not a system call.
const lookupsPerRun = 64

// newLookup is route_lookup of bpf/include/route.h for one address as a program of its own, which the
// kernel runs as it runs the datapath, with its readers' guarantees. It looks the address up over and
// over and returns the first host that is not allowed, or at last the first that is.
func newLookup(t *testing.T, r *Routes, a netip.Addr, allowed []uint32) *ebpf.Program {
	t.Helper()
	slot, ok := r.index.slotOf(a)
	if !ok {
		t.Fatalf("%s has no slot", a)
	}
	key, err := encodeRouteKey(RouteKey{0, netip.PrefixFrom(a, 32)})
	must(t, err)
	insns := asm.Instructions{
		asm.Mov.Imm(asm.R6, lookupsPerRun),
		asm.StoreImm(asm.RFP, -4, int64(slot), asm.Word).WithSymbol("again"),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, r.index.m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "trie"),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "found"),
		asm.Mov.Reg(asm.R2, asm.RFP).WithSymbol("trie"), asm.Add.Imm(asm.R2, -32),
	}
	for i, words := 0, wireBytes(key); i < len(words); i += 4 {
		word := int64(int32(binary.NativeEndian.Uint32(words[i:])))
		insns = append(insns, asm.StoreImm(asm.RFP, int16(-32+i), word, asm.Word))
	}
	insns = append(insns,
		asm.LoadMapPtr(asm.R1, r.trie.m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
		asm.Sub.Imm(asm.R6, 1).WithSymbol("found"),
		asm.JEq.Imm(asm.R6, 0, "end"),
	)
	for _, host := range allowed {
		insns = append(insns, asm.JEq.Imm(asm.R0, int32(host), "again"))
	}
	insns = append(insns,
		asm.Return().WithSymbol("exit"),
		asm.Mov.Imm(asm.R0, int32(allowed[0])).WithSymbol("end"),
		asm.Return(),
	)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: insns})
	must(t, err)
	t.Cleanup(func() { prog.Close() })
	return prog
}

// watch runs a program of newLookup until ctx is done, and reports an answer that is not allowed.
func watch(ctx context.Context, prog *ebpf.Program, allowed []uint32, runs *atomic.Uint64) (uint32, error) {
	packet := make([]byte, 64)
	for ctx.Err() == nil {
		host, err := prog.Run(&ebpf.RunOptions{Data: packet})
		if err != nil {
			return 0, err
		}
		if !slices.Contains(allowed, host) {
			return host, errors.New("wrong answer")
		}
		runs.Add(1)
	}
	return 0, nil
}

// TestRoutesWhileWritten looks addresses up in programs while the routes over them move between index
// and trie: each must be answered as some moment's routes answer it, and never missed.
func TestRoutesWhileWritten(t *testing.T) {
	prefix := netip.MustParsePrefix
	wide, whole := Route{Prefix: prefix("172.246.0.0/16"), Host: 2}, Route{Prefix: prefix("172.246.0.0/24"), Host: 3}
	long, longer := Route{Prefix: prefix("172.246.0.0/25"), Host: 4}, Route{Prefix: prefix("172.246.0.2/32"), Host: 5}
	inWhole, inLong := netip.MustParseAddr("172.246.0.200"), netip.MustParseAddr("172.246.0.2")

	type step struct {
		put bool
		r   Route
	}
	put, del := func(r Route) step { return step{true, r} }, func(r Route) step { return step{false, r} }
	moved, sameHost := whole, wide
	moved.Host, sameHost.Host = 6, whole.Host
	for _, tt := range []struct {
		name            string
		start           []Route
		steps           []step // over and over
		whole, longAddr []uint32
	}{
		{"a longer prefix comes and goes", []Route{whole}, []step{put(long), del(long)}, []uint32{3}, []uint32{3, 4}},
		{"two longer prefixes", []Route{whole},
			[]step{put(long), put(longer), del(long), del(longer)}, []uint32{3}, []uint32{3, 4, 5}},
		{"into the trie and back to the index", []Route{whole},
			[]step{put(long), put(sameHost), del(whole), del(long), put(whole), del(sameHost)}, []uint32{3}, []uint32{3, 4}},
		{"the host changes in the index", []Route{whole}, []step{put(moved), put(whole)}, []uint32{3, 6}, []uint32{3, 6}},
		{"the host changes in the trie", []Route{whole, long}, []step{put(moved), put(whole)}, []uint32{3, 6}, []uint32{4}},
		{"a slot takes over from a wider route", []Route{wide},
			[]step{put(whole), del(wide), put(wide), del(whole)}, []uint32{2, 3}, []uint32{2, 3}},
		{"deleted and put again under a wider route", []Route{wide, whole},
			[]step{put(long), del(whole), del(long), put(whole)}, []uint32{2, 3}, []uint32{2, 3, 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes := newTestSet(t, nil).Routes
			for _, r := range tt.start {
				must(t, routes.Put(r))
			}
			readers := map[*ebpf.Program][]uint32{
				newLookup(t, routes, inWhole, tt.whole):   tt.whole,
				newLookup(t, routes, inLong, tt.longAddr): tt.longAddr,
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var running sync.WaitGroup
			var runs atomic.Uint64
			for prog, allowed := range readers {
				running.Go(func() {
					if host, err := watch(ctx, prog, allowed, &runs); err != nil {
						t.Errorf("%v: %d, want one of %v", err, host, allowed)
						cancel()
					}
				})
			}
			start, rounds := time.Now(), 0
			for ; ctx.Err() == nil && (rounds < 10 || runs.Load() == 0 || time.Since(start) < time.Second/2); rounds++ {
				for _, s := range tt.steps {
					if s.put {
						must(t, routes.Put(s.r))
					} else {
						must(t, routes.Delete(s.r.Network, s.r.Prefix))
					}
				}
			}
			cancel()
			running.Wait()
			t.Logf("%d lookups while %d rounds were written", runs.Load()*lookupsPerRun, rounds)
		})
	}
}

// TestRoutesRepair starts from what a writer that was killed in the middle of a Put leaves behind.
func TestRoutesRepair(t *testing.T) {
	prefix := netip.MustParsePrefix
	whole, long := RouteKey{0, prefix("172.246.0.0/24")}, RouteKey{0, prefix("172.246.0.0/25")}
	slotHost := uint32(3)
	for _, tt := range []struct {
		name string
		trie map[RouteKey]uint32
		want model
	}{
		{"a copy", map[RouteKey]uint32{whole: 3}, model{whole.Prefix: 3}},
		{"a stale copy", map[RouteKey]uint32{whole: 9}, model{whole.Prefix: 3}},
		{"the slot not emptied", map[RouteKey]uint32{whole: 3, long: 4}, model{whole.Prefix: 3, long.Prefix: 4}},
		{"no copy yet", map[RouteKey]uint32{long: 4}, model{whole.Prefix: 3, long.Prefix: 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			maps := newMaps(t, settingsFor(testNetwork, testBits), nil)
			left := setOf(t, maps).Routes
			slot, _ := left.index.slotFor(whole)
			must(t, left.index.set(slot, Slot{Host: slotHost}))
			for key, host := range tt.trie {
				must(t, left.trie.put(key, host))
			}
			routes := setOf(t, maps).Routes
			other := netip.MustParsePrefix("172.247.0.0/24")
			must(t, routes.Put(Route{Prefix: other, Host: 7}))
			tt.want[other] = 7
			rng := rand.New(rand.NewPCG(1, 1))
			checkAll(t, routes, tt.want)
			checkRoutes(t, routes, tt.want, rng)
			must(t, routes.Delete(0, long.Prefix))
			delete(tt.want, long.Prefix)
			must(t, routes.Put(Route{Prefix: whole.Prefix, Host: 8}))
			tt.want[whole.Prefix] = 8
			checkAll(t, routes, tt.want)
			checkRoutes(t, routes, tt.want, rng)
		})
	}
}

func TestRoutesNetworks(t *testing.T) {
	routes := newTestSet(t, nil).Routes
	p := netip.MustParsePrefix("172.246.0.0/24")
	v6 := Route{Prefix: netip.MustParsePrefix("2001:db8:42:1::/64"), Host: 5}
	want := []Route{{Prefix: p, Host: 2}, v6, {Network: 9, Prefix: p, Host: 3}}
	for _, r := range want {
		must(t, routes.Put(r))
	}
	all, err := routes.All()
	must(t, err)
	if diff := cmp.Diff(want, all, comparePrefixes); diff != "" {
		t.Error(diff)
	}
	for a, want := range map[string]uint32{"172.246.0.9": 2, "2001:db8:42:1::9": 5, "2001:db8:42:2::9": 0} {
		if got, err := routes.Lookup(netip.MustParseAddr(a)); err != nil || got != want {
			t.Errorf("Lookup(%s) = %d, %v, want %d", a, got, err, want)
		}
	}
	must(t, routes.Delete(9, p))
	if got, err := routes.Lookup(netip.MustParseAddr("172.246.0.9")); err != nil || got != 2 {
		t.Errorf("another network's route went with it: %d, %v", got, err)
	}
}

func TestRoutesFull(t *testing.T) {
	routes := newTestSet(t, sizes{"routes": 2}).Routes
	prefix := netip.MustParsePrefix
	must(t, routes.Put(Route{Prefix: prefix("172.246.0.0/24"), Host: 2}))
	must(t, routes.Put(Route{Prefix: prefix("10.0.0.0/8"), Host: 3}))
	err := routes.Put(Route{Prefix: prefix("172.246.0.0/25"), Host: 4}) // needs two places
	if !errors.Is(err, ErrFull) {
		t.Fatalf("Put to a full trie: %v", err)
	}
	want := "put 172.246.0.0/25 of network 0 in map routes: map routes is full (2 entries): raise --max-routes"
	if err.Error() != want {
		t.Errorf("Put to a full trie: %q, want %q", err, want)
	}
	want2 := model{prefix("172.246.0.0/24"): 2, prefix("10.0.0.0/8"): 3}
	checkAll(t, routes, want2)
	must(t, routes.Put(Route{Prefix: prefix("172.246.0.0/24"), Host: 5})) // still where it was
	must(t, routes.Put(Route{Prefix: prefix("11.0.0.0/8"), Host: 3}))     // the place was given back
	want2[prefix("172.246.0.0/24")], want2[prefix("11.0.0.0/8")] = 5, 3
	checkAll(t, routes, want2)
}

func TestRoutesRefused(t *testing.T) {
	routes := newTestSet(t, nil).Routes
	for name, r := range map[string]Route{
		"no prefix": {Host: 2},
		"host bits": {Prefix: netip.MustParsePrefix("172.246.0.1/24"), Host: 2},
		"no host":   {Prefix: netip.MustParsePrefix("172.246.0.0/24")},
	} {
		if err := routes.Put(r); err == nil {
			t.Errorf("%s: Put gave no error", name)
		}
	}
	checkAll(t, routes, model{})
}

// TestRoutesWithoutIndex is the trie alone, as settings without an index have it.
func TestRoutesWithoutIndex(t *testing.T) {
	s := settingsFor(testNetwork, testBits)
	s.Ipv4.IndexBase, s.Ipv4.IndexShift, s.Ipv4.IndexCount = [2]uint64{}, 0, 0
	routes := setOf(t, newMaps(t, s, nil)).Routes
	m := model{netip.MustParsePrefix("172.246.0.0/24"): 2, netip.MustParsePrefix("172.246.0.0/25"): 3}
	for p, host := range m {
		must(t, routes.Put(Route{Prefix: p, Host: host}))
	}
	checkAll(t, routes, m)
	checkRoutes(t, routes, m, rand.New(rand.NewPCG(1, 1)))
}
