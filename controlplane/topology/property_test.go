// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// leaseBytes is what randomLeases takes for one lease.
const leaseBytes = 5

// The world of the random leases is small, so that they often meet: overlapping
// subnets of six lengths (one outside the network), this node's address, one
// without a way there, two behind a router, and few MACs and revisions.
var (
	randomNodes = []netip.Addr{
		addr("192.168.32.245"), addr("192.168.32.246"), addr("192.168.32.247"), addr("192.168.32.248"),
		addr("192.168.32.249"), addr("192.168.32.250"), addr("192.168.32.251"), addr("192.168.32.252"),
		addr("10.0.0.6"), addr("10.0.0.7"), addr("198.51.100.1"),
	}
	randomLengths = []int{13, 15, 16, 20, 24, 25}
	randomMACs    = []MAC{{}, selfMAC, macA, macB, {2, 0, 0, 0, 0, 0x0c}}
	randomEncaps  = []Encap{EncapVXLAN, EncapVXLAN, EncapVXLAN, EncapVXLAN, EncapVXLAN, EncapVXLAN, EncapIPIP, "gre"}
)

// randomLease makes a lease of any bytes. Its key is unlike those of others of the same subnet.
func randomLease(b [leaseBytes]byte, n int) Lease {
	length := randomLengths[int(b[0]&7)%len(randomLengths)]
	third := b[0] >> 3 & 3 // of 172.246.x.0 and 172.245.x.0
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 245 + b[0]>>5&1, third, b[0] & 0x80}), length).Masked()
	return Lease{
		Key:    fmt.Sprintf("%s-%d&%d", subnet.Addr(), subnet.Bits(), n),
		Subnet: subnet, Node: randomNodes[int(b[1])%len(randomNodes)],
		Encap: randomEncaps[b[2]&7], MAC: randomMACs[int(b[2]>>3)%len(randomMACs)], VNI: uint32(b[4] >> 6 & 1 * 2),
		Created: int64(b[3] & 15), Modified: int64(b[3]>>4) + int64(b[4]&15),
	}
}

func randomLeases(data []byte) []Lease {
	var all []Lease
	for b := range slices.Chunk(data, leaseBytes) {
		if len(b) == leaseBytes {
			all = append(all, randomLease([leaseBytes]byte(b), len(all)))
		}
	}
	return all
}

// checkBuild holds what is true of every result.
func checkBuild(t *testing.T, in Input) {
	t.Helper()
	state, problems := Build(in)
	if !slices.IsSortedFunc(state.Peers, func(a, b Peer) int { return strings.Compare(a.Key, b.Key) }) {
		t.Error("peers are not sorted by key")
	}
	told := map[string]bool{}
	for _, p := range problems {
		told[p.Key] = true
		if p.Text == "" || strings.ContainsRune(p.Text, '\n') {
			t.Errorf("problem of %s is not one line: %q", p.Key, p.Text)
		}
	}
	served := map[string]bool{}
	for i, p := range state.Peers {
		served[p.Key] = true
		if p.Subnet.Overlaps(in.Self.Subnet) {
			t.Errorf("%s is served, but overlaps this node's subnet", p.Key)
		}
		for _, q := range state.Peers[:i] {
			if p.Subnet.Overlaps(q.Subnet) {
				t.Errorf("%s and %s are both served, but overlap", q.Key, p.Key)
			}
		}
	}
	for _, l := range in.Leases {
		if !served[l.Key] && !told[l.Key] {
			t.Errorf("%s is neither served nor a problem", l.Key)
		}
	}
	if diff := gocmp.Diff(obviousOverlaps(in), keys(state.Peers)); diff != "" {
		t.Errorf("served leases (-obvious +got):\n%s", diff)
	}
}

// obviousOverlaps is which leases Build serves, found slowly: of those that are
// served alone, with nothing else in etcd, each that overlaps no older served
// one; those that have not the MAC of their node's newest one after all others.
func obviousOverlaps(in Input) []string {
	var alone []Lease
	for _, l := range in.Leases {
		single := in
		single.Leases = []Lease{l}
		if s, _ := Build(single); len(s.Peers) == 1 {
			alone = append(alone, l)
		}
	}
	slices.SortFunc(alone, func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Key, b.Key))
	})
	var current, old, served []Lease
	for _, l := range alone {
		if ofNewest(l, alone) {
			current = append(current, l)
		} else {
			old = append(old, l)
		}
	}
	for _, l := range append(current, old...) {
		if !slices.ContainsFunc(served, func(o Lease) bool { return o.Subnet.Overlaps(l.Subnet) }) {
			served = append(served, l)
		}
	}
	all := make([]string, 0, len(served))
	for _, l := range served {
		all = append(all, l.Key)
	}
	slices.Sort(all)
	return all
}

// ofNewest reports whether a lease has the MAC of its node's newest one.
func ofNewest(l Lease, all []Lease) bool {
	newest := l
	for _, o := range all {
		if o.Node == l.Node && (o.Modified > newest.Modified || o.Modified == newest.Modified && o.Key < newest.Key) {
			newest = o
		}
	}
	return newest.MAC == l.MAC
}

func FuzzBuild(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add([]byte{0xa4, 1, 16, 1, 0, 0xa2, 2, 24, 2, 0, 0xa5, 3, 32, 3, 0}, true) // three that overlap
	f.Add([]byte{0xa4, 1, 16, 1, 0, 0xac, 1, 24, 2, 0}, false)                   // one PublicIP
	f.Fuzz(func(t *testing.T, data []byte, directRouting bool) {
		in := input(randomLeases(data[:min(len(data), 40*leaseBytes)])...)
		in.DirectRouting = directRouting
		checkBuild(t, in)
	})
}

// eachRandom runs f with random inputs of up to 24 leases.
func eachRandom(t *testing.T, runs int, f func(t *testing.T, r *rand.Rand, in Input)) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for run := range runs {
		data := make([]byte, leaseBytes*r.IntN(25))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		in := input(randomLeases(data)...)
		in.DirectRouting = r.IntN(4) == 0
		f(t, r, in)
		if t.Failed() {
			t.Fatalf("seed %d, run %d, leases %+v", seed, run, in.Leases)
		}
	}
}

func TestBuildInvariants(t *testing.T) {
	eachRandom(t, 300, func(t *testing.T, _ *rand.Rand, in Input) { checkBuild(t, in) })
}

func TestBuildIsTheSameInAnyOrder(t *testing.T) {
	eachRandom(t, 200, func(t *testing.T, r *rand.Rand, in Input) {
		state, problems := Build(in)
		r.Shuffle(len(in.Leases), func(i, j int) { in.Leases[i], in.Leases[j] = in.Leases[j], in.Leases[i] })
		shuffledState, shuffledProblems := Build(in)
		if diff := gocmp.Diff(state, shuffledState, byValue); diff != "" {
			t.Errorf("state (-one order +another):\n%s", diff)
		}
		if diff := gocmp.Diff(problems, shuffledProblems); diff != "" {
			t.Errorf("problems (-one order +another):\n%s", diff)
		}
	})
}

func TestBuildLeavesItsInputAlone(t *testing.T) {
	eachRandom(t, 200, func(t *testing.T, _ *rand.Rand, in Input) {
		before := slices.Clone(in.Leases)
		Build(in)
		if !slices.Equal(before, in.Leases) {
			t.Errorf("leases became %+v", in.Leases)
		}
	})
}

// badRecords are wrong by themselves, in each way there is, and claim as much as they can.
var badRecords = map[string]Lease{
	"own PublicIP":    lease("172.246.0.0/16 192.168.32.245"),
	"outside":         lease("172.0.0.0/8 192.168.32.246"),
	"misaligned":      lease("172.246.0.0/16 192.168.32.246", subnet("172.246.0.1/16")),
	"no subnet":       lease("172.246.0.0/16 192.168.32.246", func(l *Lease) { l.Subnet = netip.Prefix{} }),
	"overlaps ours":   lease("172.244.0.0/14 192.168.32.246"),
	"no PublicIP":     lease("172.246.0.0/16 192.168.32.246", func(l *Lease) { l.Node = netip.Addr{} }),
	"another backend": lease("172.246.0.0/16 192.168.32.246", encap("gre")),
	"no way":          lease("172.246.0.0/16 198.51.100.1"),
	"no VtepMAC":      lease("172.246.0.0/16 10.0.0.6", mac(MAC{})),
	"another VNI":     lease("172.246.0.0/16 10.0.0.6", vni(7)),
}

// TestBadRecordChangesNothingElse adds a record that nothing could make right,
// older and newer than all others.
func TestBadRecordChangesNothingElse(t *testing.T) {
	eachRandom(t, 50, func(t *testing.T, r *rand.Rand, in Input) {
		state, problems := Build(in)
		for name, bad := range badRecords {
			bad.Key, bad.Created, bad.Modified = "bad", int64(r.IntN(20))-1, int64(r.IntN(40))-1
			with := in
			with.Leases = append(slices.Clone(in.Leases), bad)
			gotState, gotProblems := Build(with)
			if diff := gocmp.Diff(state, gotState, byValue); diff != "" {
				t.Errorf("%s changes the state (-without +with):\n%s", name, diff)
			}
			others := slices.DeleteFunc(gotProblems, func(p Problem) bool { return p.Key == "bad" })
			if len(others) == len(gotProblems) {
				t.Errorf("%s is told of no problem", name)
			}
			if diff := gocmp.Diff(problems, others, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s changes others' problems (-without +with):\n%s", name, diff)
			}
		}
	})
}

// TestRecordTouchesOnlyWhatItConflictsWith adds any record: only those that it
// overlaps or whose PublicIP it has, and those that these conflict with in turn, may get something else.
func TestRecordTouchesOnlyWhatItConflictsWith(t *testing.T) {
	eachRandom(t, 200, func(t *testing.T, _ *rand.Rand, in Input) {
		if len(in.Leases) == 0 {
			return
		}
		added := in.Leases[len(in.Leases)-1]
		without := in
		without.Leases = in.Leases[:len(in.Leases)-1]
		before, _ := Build(without)
		after, _ := Build(in)
		touched := conflicting(added, in.Leases)
		untouched := func(peers []Peer) []Peer {
			return slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return touched[p.Key] })
		}
		if diff := gocmp.Diff(untouched(before.Peers), untouched(after.Peers), byValue, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%+v changes (-without +with):\n%s", added, diff)
		}
	})
}

// conflicting is the keys that are linked to a lease by overlaps and shared PublicIPs.
func conflicting(l Lease, all []Lease) map[string]bool {
	touched := map[string]bool{l.Key: true}
	for queue := []Lease{l}; len(queue) > 0; queue = queue[1:] {
		for _, o := range all {
			if !touched[o.Key] && (o.Subnet.Overlaps(queue[0].Subnet) || o.Node == queue[0].Node) {
				touched[o.Key] = true
				queue = append(queue, o)
			}
		}
	}
	return touched
}

// BenchmarkBuild is a pass over a whole cluster: /24s of 10.0.0.0/8 and, for
// more than it holds, longer ones; every hundredth lease has something wrong.
func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d leases", n), func(b *testing.B) {
			in := cluster(n)
			for b.Loop() {
				if s, problems := Build(in); len(s.Peers)+len(problems) != n {
					b.Fatalf("%d peers and %d problems of %d leases", len(s.Peers), len(problems), n)
				}
			}
		})
	}
}

// BenchmarkBuildOverlapped is a cluster with one lease that contains all the others.
func BenchmarkBuildOverlapped(b *testing.B) {
	in := cluster(100_000)
	in.Leases = append(in.Leases, lease("10.0.0.0/8 192.168.32.246", created(1<<40)))
	for b.Loop() {
		Build(in)
	}
}

func cluster(n int) Input {
	in := input()
	in.Network = prefix("10.0.0.0/8")
	in.Self.Subnet = prefix("10.255.255.0/24")
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 9), byte(i >> 1), byte(i << 7)}), 25)
		l := Lease{
			Key: fmt.Sprintf("%s-25", p.Addr()), Subnet: p, Node: netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}),
			Encap: EncapVXLAN, MAC: MAC{2, 0, 1, byte(i >> 16), byte(i >> 8), byte(i)}, VNI: 1, Created: int64(n - i), Modified: int64(i),
		}
		if i%100 == 99 {
			l.MAC = MAC{}
		}
		in.Leases = append(in.Leases, l)
	}
	in.Path = func(node netip.Addr) (Path, error) { return Path{Ifindex: 2, NextHop: node, MTU: 1500}, nil }
	return in
}
