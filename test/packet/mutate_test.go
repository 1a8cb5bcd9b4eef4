// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestMutated runs packets made from those of the tables by random changes, and compares with the
// model. BPFNET_PACKETS says how many, BPFNET_SEED from which seed: of a failure, its own.
func TestMutated(t *testing.T) {
	count := numberFrom(t, "BPFNET_PACKETS", 50_000)
	seed := numberFrom(t, "BPFNET_SEED", uint64(time.Now().UnixNano()))
	t.Logf("BPFNET_PACKETS=%d BPFNET_SEED=%d", count, seed)
	mutant := newMutator(seed)
	for _, w := range worlds {
		must(t, load(t, w).begin())
	}
	start := time.Now()
	for i := range count {
		program, w, a := mutant.next()
		if !a.runnable() {
			continue
		}
		if err := load(t, w).compare(program, a); err != nil {
			t.Fatalf("BPFNET_SEED=%d, packet %d, program %d, world %s, %d bytes, GSO size %d, ifindex %d: %v\n% x",
				seed, i, program, w.name, len(a.frame), a.gsoSize, a.ifindex, err, a.frame)
		}
	}
	for _, w := range worlds {
		if err := load(t, w).recount(); err != nil {
			t.Errorf("BPFNET_SEED=%d, world %s: %v", seed, w.name, err)
		}
	}
	t.Logf("%.0f packets/s", float64(count)/time.Since(start).Seconds())
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

// mutator makes packets from packets. The same seed gives the same packets.
type mutator struct {
	*rand.Rand
	seeds    map[bpf.DatapathProgram][]packetCase
	programs []bpf.DatapathProgram
}

func newMutator(seed uint64) *mutator {
	return &mutator{
		Rand:  rand.New(rand.NewPCG(seed, 0)),
		seeds: tables(),
		programs: []bpf.DatapathProgram{
			bpf.DatapathProgramPROGRAM_FROM_CONTAINER,
			bpf.DatapathProgramPROGRAM_FROM_NETWORK,
			bpf.DatapathProgramPROGRAM_FROM_HOST,
			bpf.DatapathProgramPROGRAM_FROM_VETH,
			bpf.DatapathProgramPROGRAM_FROM_WIRE,
		},
	}
}

// next is a packet for a program in a world. One in 16 goes where it does not belong.
func (m *mutator) next() (bpf.DatapathProgram, *world, arrival) {
	program := pick(m, m.programs)
	c := m.seed(program)
	a, w := c.in, c.world
	if w == nil {
		w = lab
	}
	a.frame = bytes.Clone(a.frame)
	for range m.IntN(5) {
		pick(m, mutations)(m, &a)
	}
	if m.IntN(2) == 0 {
		refit(a.frame)
	}
	if m.IntN(16) == 0 {
		program, w = pick(m, m.programs), pick(m, worlds)
	}
	return program, w, a
}

func (m *mutator) seed(program bpf.DatapathProgram) packetCase { return pick(m, m.seeds[program]) }

func pick[T any](m *mutator, from []T) T { return from[m.IntN(len(from))] }

// mutations are the changes, those of headers more than once.
var mutations = []func(*mutator, *arrival){
	(*mutator).flip, (*mutator).flip, (*mutator).set, (*mutator).set, (*mutator).setWord,
	(*mutator).address, (*mutator).address, (*mutator).mac, (*mutator).field, (*mutator).field,
	(*mutator).truncate, (*mutator).extend, (*mutator).splice, (*mutator).gso, (*mutator).link,
}

// at is an offset with room for n bytes, mostly in the headers; -1 where there is none.
func (m *mutator) at(a *arrival, n int) int {
	room := len(a.frame) - n + 1
	if room <= 0 {
		return -1
	}
	if m.IntN(8) != 0 {
		room = min(room, 110)
	}
	return m.IntN(room)
}

func (m *mutator) put(a *arrival, at int, b []byte) {
	if at >= 0 && at+len(b) <= len(a.frame) {
		copy(a.frame[at:], b)
	}
}

func (m *mutator) flip(a *arrival) {
	if i := m.at(a, 1); i >= 0 {
		a.frame[i] ^= 1 << m.IntN(8)
	}
}

func (m *mutator) set(a *arrival) {
	values := []byte{0, 1, 2, 4, 6, 17, 0x40, 0x44, 0x45, 0x46, 0x7f, 0x80, 0xff, byte(m.Uint32())}
	m.put(a, m.at(a, 1), []byte{pick(m, values)})
}

func (m *mutator) setWord(a *arrival) {
	length := uint16(len(a.frame))
	values := []uint16{0, 1, 20, 0x2000, 0x4000, 0x0800, 0x0806, 0x8100, 8472, 4789, 8285, 0x7fff, 0xffff,
		length, length - 14, length - 15, length - 34, length - 42, length - 64, uint16(m.Uint32())}
	m.put(a, m.at(a, 2), binary.BigEndian.AppendUint16(nil, pick(m, values)))
}

// Where IP headers begin in the frames there are: bare, and inside each encapsulation.
var ipOffsets = []int{atIP, atIP + 20, atIP + 28, atIP + 50}

func (m *mutator) address(a *arrival) {
	addrs := []netip.Addr{node1, node2, node3, node4, node5, node6, node7, stranger, vtepAddr, bridge, c1, c2, newborn,
		remote2, remote3, remote4, remote5, remote6, remote7, nested2, nested3, outside2, nowhere, noLease, internet,
		group, zeroAddr, lastAddr}
	m.put(a, pick(m, ipOffsets)+12+4*m.IntN(2), pick(m, addrs).AsSlice())
}

func (m *mutator) mac(a *arrival) {
	macs := []topology.MAC{bridgeMAC, c1MAC, c2MAC, routerMAC, uplink.mac, overlay.mac, vtep2, vtep7, broadcast, multicast, {}}
	mac := pick(m, macs)
	m.put(a, pick(m, []int{0, 6, atFrame, atFrame + 6}), mac[:])
}

// field sets one of the fields the rules are about to a value they tell apart.
func (m *mutator) field(a *arrival) {
	ip := pick(m, ipOffsets)
	fields := []patch{
		put8(ip, 0x46), put8(ip, 0x4f), put8(ip, 0x55), put8(ip+1, byte(m.IntN(4))), put8(ip+1, byte(m.Uint32())),
		put16(ip+6, 0x4000), put16(ip+6, 0x2000), put16(ip+6, 0x0001), put16(ip+6, 0x8000), put16(ip+6, 0),
		put8(ip+8, byte(m.IntN(4))), put8(ip+9, 4), put8(ip+9, 6), put8(ip+9, 17), put8(ip+9, 132), put8(ip+9, byte(m.Uint32())),
		put16(ip+10, uint16(m.Uint32())), put16(ip+10, 0xffff), put16(ip+10, 0),
		put32(atVNI, uint32(m.IntN(4))<<8), put32(atVNI, 0xabcdef00), put32(atVXLAN, 0x08000000), put16(12, 0x0800),
	}
	p := pick(m, fields)
	m.put(a, p.at, p.bytes)
}

func (m *mutator) truncate(a *arrival) { a.frame = a.frame[:m.IntN(len(a.frame)+1)] }

func (m *mutator) extend(a *arrival) {
	extra := make([]byte, m.IntN(1+pick(m, []int{8, 64, 1500})))
	for i := range extra {
		extra[i] = byte(m.Uint32())
	}
	a.frame = append(a.frame, extra...)
}

// splice continues with the bytes of another packet.
func (m *mutator) splice(a *arrival) {
	other := m.seed(pick(m, m.programs)).in.frame
	if i := m.at(a, 0); i >= 0 {
		a.frame = append(a.frame[:i], other[m.IntN(len(other)):]...)
	}
}

func (m *mutator) gso(a *arrival) {
	a.gsoSize = pick(m, []uint16{0, 1, 60, 1300, 1398, 1422, 1472, 0xffff, uint16(m.Uint32())})
}

func (m *mutator) link(a *arrival) { a.ifindex = pick(m, allLinks).ifindex }
