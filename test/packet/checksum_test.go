// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// TestTTLChecksum: one hop less gives the checksum of a header summed anew, for every TTL and
// protocol there is.
func TestTTLChecksum(t *testing.T) {
	m := load(t, lab)
	ip := ipHeader(datagram{src: c1, dst: c2}.bytes())
	for value := range 1 << 16 {
		binary.BigEndian.PutUint16(ip[8:], uint16(value))
		if ip.ttl() <= 1 {
			continue
		}
		ip.setChecksum()
		a := fromC1(datagram{src: c1, dst: c2})
		copy(a.frame[etherLen:], ip)
		m.checkSummed(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, a)
	}
}

// TestEveryChecksum: one hop less, from a header with every checksum, by way of its ID.
func TestEveryChecksum(t *testing.T) {
	m := load(t, lab)
	a := fromC1(datagram{src: c1, dst: c2})
	ip := ipHeader(a.frame[etherLen:])
	for id := range 1 << 16 {
		binary.BigEndian.PutUint16(ip[4:], uint16(id))
		ip.setChecksum()
		m.checkSummed(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, a)
	}
}

// TestTOSChecksum: TOS and TTL change together where congestion is taken over from the outer header.
func TestTOSChecksum(t *testing.T) {
	m := load(t, lab)
	for value := range 1 << 16 {
		tos, ttl := uint8(value>>8), uint8(value)
		if tos&3 == 0 || ttl <= 1 {
			continue
		}
		in := from(node3, patched(ipip3, put8(1, tos), put8(8, ttl)))
		ipHeader(in.inner).setChecksum()
		in.tos = 3
		m.checkSummed(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, arrives(in.bytes()))
	}
}

var ipip3 = datagram{src: remote3, dst: c1}.bytes()

// checkSummed runs a packet that is forwarded into a container, and sums its header.
func (m *machine) checkSummed(t *testing.T, program bpf.DatapathProgram, a arrival) {
	t.Helper()
	verdict, out, err := m.run(program, a)
	must(t, err)
	ip := ipHeader(out[etherLen:])
	got := binary.BigEndian.Uint16(ip[10:])
	ip.setChecksum()
	if want := binary.BigEndian.Uint16(ip[10:]); verdict != actRedirect || got != want {
		t.Fatalf("verdict %d, checksum %04x, want %04x: % x", verdict, got, want, ip[:ipv4Len])
	}
}

// TestOuterChecksum: settle() sums each pushed header; here for every length, ECN and DF of the inner
// packet, many times, for the IP ID is random.
func TestOuterChecksum(t *testing.T) {
	m := load(t, lab)
	must(t, m.begin())
	for _, r := range remotes {
		for size := ipv4Len + udpLen; size <= r.mtu; size += 13 {
			d := datagram{src: c1, dst: r.container, tos: uint8(size & 3)}.sized(size)
			d.flags = 2 & (1 << (size & 1)) // DF of every other
			must(t, m.compare(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, fromC1(d)))
		}
	}
}
