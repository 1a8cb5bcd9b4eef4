// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// ipv4 is a packet of the given protocol with a right checksum. TTL 64.
func ipv4(src, dst string, protocol byte, payload []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(payload))
	b[0], b[offTTL], b[offProtocol] = 0x45, 64, protocol
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[offSource:], s[:])
	copy(b[offDest:], d[:])
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[offTotalLen:], uint16(len(b)))
	return seal(b)
}

// seal sums the header anew.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint16(b[offChecksum:], 0)
	binary.BigEndian.PutUint16(b[offChecksum:], checksum(b[:packet(b).headerLen()]))
	return b
}

// The example of RFC 1071, 3, and a header whose sum is known.
func TestChecksum(t *testing.T) {
	tests := map[string]struct {
		bytes []byte
		want  uint16
	}{
		"RFC 1071":   {[]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, ^uint16(0xddf2)},
		"odd length": {[]byte{0x00, 0x01, 0xf2}, ^uint16(0xf201)},
		"nothing":    {nil, 0xffff},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := checksum(tt.bytes); got != tt.want {
				t.Errorf("checksum %#x, want %#x", got, tt.want)
			}
		})
	}
}

// Every TTL and every first checksum word that the update may carry over from:
// the header has to sum up after it as before.
func TestTakeHop(t *testing.T) {
	for _, ttl := range []int{0, 1, 2, 3, 64, 128, 254, 255} {
		for id := 0; id < 1<<16; id += 3 {
			b := ipv4("172.245.0.2", "172.246.0.2", 17, nil)
			binary.BigEndian.PutUint16(b[4:], uint16(id))
			b[offTTL] = byte(ttl)
			seal(b)
			before := bytes.Clone(b)
			if took := packet(b).takeHop(); took != (ttl > 1) {
				t.Fatalf("TTL %d: took a hop: %v", ttl, took)
			}
			if ttl <= 1 {
				if !bytes.Equal(b, before) {
					t.Fatalf("TTL %d: the expired packet was changed", ttl)
				}
				continue
			}
			before[offTTL]--
			if !bytes.Equal(seal(before), b) {
				t.Fatalf("TTL %d, ID %d: %x, want %x", ttl, id, b, before)
			}
		}
	}
}

// RFC 6040, figure 4, with what __INET_ECN_decapsulate() leaves open decided as
// there.
func TestECN(t *testing.T) {
	const dscp = 0xb8
	drop := -1
	want := [4][4]int{ // by inner, then outer: Not-ECT, ECT(1), ECT(0), CE
		ecnNotECT: {ecnNotECT, ecnNotECT, ecnNotECT, drop},
		ecnECT1:   {ecnECT1, ecnECT1, ecnECT1, ecnCE},
		ecnECT0:   {ecnECT0, ecnECT1, ecnECT0, ecnCE},
		ecnCE:     {ecnCE, ecnCE, ecnCE, ecnCE},
	}
	for inner := range byte(4) {
		for outer := range byte(4) {
			b := ipv4("172.245.0.2", "172.246.0.2", 17, nil)
			b[offTOS] = dscp | inner
			seal(b)
			ok := packet(b).mergeECN(dscp | outer)
			if ok != (want[inner][outer] != drop) {
				t.Errorf("inner %d, outer %d: kept: %v", inner, outer, ok)
			}
			if ok && (b[offTOS] != dscp|byte(want[inner][outer]) || !wellFormed(b)) {
				t.Errorf("inner %d, outer %d: TOS %#x, well-formed %v, want ECN %d",
					inner, outer, b[offTOS], wellFormed(b), want[inner][outer])
			}
			six := append([]byte{0x6b, (0x8|inner)<<4 | 0x5}, make([]byte, 38)...) // the class as above, a flow label behind it
			ok = MergeECN(six, dscp|outer)
			if ok != (want[inner][outer] != drop) || ok && (six[0] != 0x6b || six[1] != (0x8|byte(want[inner][outer]))<<4|0x5) {
				t.Errorf("IPv6: inner %d, outer %d: kept %v, % x, want ECN %d", inner, outer, ok, six[:2], want[inner][outer])
			}
		}
		b := packet(ipv4("172.245.0.2", "172.246.0.2", 17, nil))
		b[offTOS] = dscp | inner
		if want := [4]byte{ecnNotECT, ecnECT1, ecnECT0, ecnECT0}[inner]; b.outerTOS() != want {
			t.Errorf("inner %d: outer TOS %#x, want %#x", inner, b.outerTOS(), want)
		}
	}
}

func TestMergeECNOfNoPacket(t *testing.T) {
	for _, b := range [][]byte{nil, {0x45}, make([]byte, 60), append([]byte{0x60}, make([]byte, 38)...)} {
		if MergeECN(b, 0) {
			t.Errorf("% x is taken for a packet", b)
		}
	}
}

func TestWellFormed(t *testing.T) {
	valid := func() []byte { return ipv4("172.245.0.2", "172.246.0.2", 17, make([]byte, 12)) }
	tests := map[string]struct {
		change func(b []byte) []byte
		want   bool
	}{
		"as it is":                  {func(b []byte) []byte { return b }, true},
		"empty":                     {func([]byte) []byte { return nil }, false},
		"header cut":                {func(b []byte) []byte { return b[:19] }, false},
		"payload cut":               {func(b []byte) []byte { return b[:31] }, false},
		"trailing byte":             {func(b []byte) []byte { return append(b, 0) }, false},
		"IPv6":                      {func(b []byte) []byte { b[0] = 0x65; return seal(b) }, false},
		"header length under 20":    {func(b []byte) []byte { b[0] = 0x44; return seal(b) }, false},
		"header length over packet": {func(b []byte) []byte { b[0] = 0x4f; return b }, false},
		"options":                   {func(b []byte) []byte { b[0] = 0x48; return seal(b) }, true},
		"total length under header": {func(b []byte) []byte { b[offTotalLen+1] = 19; return seal(b) }, false},
		"checksum wrong":            {func(b []byte) []byte { b[offChecksum]++; return b }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := wellFormed(tt.change(valid())); got != tt.want {
				t.Errorf("well-formed: %v, want %v", got, tt.want)
			}
		})
	}
}
