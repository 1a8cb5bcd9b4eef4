// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// headerKinds are single datagrams with headers of all sorts: RFC 6040, 4.1 on
// the way in, DSCP, DF, TTL.
func headerKinds() (all []kind) {
	for tos := range uint8(4) {
		for _, dscp := range []uint8{0, dscp, 0x20} {
			all = append(all, kind{name: fmt.Sprintf("TOS %#x", tos|dscp), tos: tos | dscp, run: rawDatagram})
		}
	}
	for _, ttl := range []uint8{4, 5, 128, 255} {
		all = append(all, kind{name: fmt.Sprint("TTL ", ttl), ttl: ttl, run: rawDatagram})
	}
	return append(all, kind{name: "DF", df: true, run: rawDatagram})
}

// testHeaders sends every sort of header on every way.
func (m *matrix) testHeaders(t *testing.T) {
	for _, f := range m.inner.Each() {
		for _, w := range ways {
			for _, k := range headerKinds() {
				t.Run(fmt.Sprintf("%s %s: %s", f, w.name, k.name), func(t *testing.T) { m.row(t, w, f, k, offload{}) })
			}
		}
	}
}

// ecnOut is RFC 6040, 4.2 as __INET_ECN_decapsulate() of include/net/inet_ecn.h
// has it: what becomes of each inner field (first index) for each outer one; -1 is a drop.
var ecnOut = [4][4]int{
	{0, 0, 0, -1},
	{1, 1, 1, 3},
	{2, 1, 2, 3},
	{3, 3, 3, 3},
}

// testDecapsulatedECN has the underlay change the ECN field of a tunnel packet that h1 has sent.
func (m *matrix) testDecapsulatedECN(t *testing.T) {
	if m.backend == topology.EncapNone {
		return
	}
	const dscp = 0xb8
	for _, f := range m.inner.Each() {
		for inner, results := range ecnOut {
			sent := m.tunnelled(t, f, dscp|uint8(inner))
			for outer, want := range results {
				t.Run(fmt.Sprintf("%s inner %d outer %d", f, inner, outer), func(t *testing.T) {
					got := m.replay(t, sent, func(b []byte) { setOuterECN(b, uint8(outer)) })
					if want < 0 {
						equal(t, "datagrams that arrived", 0, len(got))
						return
					}
					if len(got) != 1 {
						t.Fatalf("%d datagrams arrived, want 1", len(got))
					}
					noError(t, lab.VerifyChecksums(got[0].Packet))
					equal(t, "TOS", dscp|uint8(want), got[0].inner.TOS)
				})
			}
		}
	}
}

// testNotRouted has the underlay bring packets that no router forwards, in tunnel
// packets that are in order: nobody gets them.
func (m *matrix) testNotRouted(t *testing.T) {
	if m.backend == topology.EncapNone {
		return
	}
	for _, f := range m.inner.Each() {
		sent := m.tunnelled(t, f, 0)
		in := innerAt(sent)
		for name, change := range map[string]func([]byte){
			"loopback source":       func(b []byte) { setInner(b, in, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), 0) },
			"multicast destination": func(b []byte) { setInner(b, in, netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1"), 1) },
			"wrong version":         func(b []byte) { b[in] ^= 0x10 },
		} {
			t.Run(fmt.Sprintf("%s %s", f, name), func(t *testing.T) {
				equal(t, "datagrams that arrived", 0, len(m.replay(t, sent, change)))
			})
		}
	}
}

// tunnelled sends a datagram from h1's first container to h2's, and returns it as it left.
func (m *matrix) tunnelled(t *testing.T, f lab.Families, tos uint8) []byte {
	t.Helper()
	w := ways[0]
	var frame []byte
	m.row(t, w, f, kind{tos: tos, run: func(ctx context.Context, r *row) error {
		if err := rawDatagram(ctx, r); err != nil {
			return err
		}
		return lab.Until(ctx, "the datagram is seen on the wire", func() (bool, error) {
			err := r.look()
			if all := r.at(sent(0), false); len(all) > 0 {
				frame = slices.Clone(all[0].Data)
			}
			return frame != nil, err
		})
	}}, offload{})
	return frame
}

// replay has the underlay bring a changed tunnel packet to h2, and one that is as
// it was behind it; it returns those of the first kind that reach h2's first container.
func (m *matrix) replay(t *testing.T, frame []byte, change func([]byte)) (arrived []seen) {
	t.Helper()
	changed, marker := slices.Clone(frame), slices.Clone(frame)
	change(changed)
	setPayload(marker)
	m.listen(t, frame)
	m.discard(t)
	send(t, m.Wire(), m.Hosts[1].Name, changed, marker)
	at := m.captures[iface{m.Hosts[1].Containers[0].NS, "eth0"}]
	until(t, "the packet behind it has arrived", func() (bool, error) {
		packets, err := at.Take()
		for _, p := range packets {
			s := seen{Packet: p, Decoded: lab.Decode(p)}
			if p.Outgoing || len(s.UDP) == 0 {
				continue
			}
			s.inner = s.IP[0]
			if isMarker(p) {
				return true, err
			}
			arrived = append(arrived, s)
		}
		return false, err
	})
	return arrived
}

// listen has somebody take the datagrams of a tunnel packet, in h2's first container, or
// else that one answers by an ICMP error.
func (m *matrix) listen(t *testing.T, frame []byte) {
	t.Helper()
	d := lab.Decode(lab.Packet{Data: frame, Len: len(frame)})
	to := netip.AddrPortFrom(d.IP[len(d.IP)-1].Dst, uint16(d.UDP[len(d.UDP)-1].DstPort))
	listenPacket(t, m.Hosts[1].Containers[0].NS, "udp", to.String())
}

// discard takes what the captures have.
func (m *matrix) discard(t *testing.T) {
	t.Helper()
	for _, c := range m.captures {
		_, err := c.Take()
		noError(t, err)
	}
}

// markers end in these bytes, and their checksum, kept right, is made up for in the bytes before.
var markerBytes = []byte{0xca, 0xfe, 0xba, 0xbe}

// setPayload makes a marker of a frame with a datagram: its last bytes, its checksum left out of account.
func setPayload(frame []byte) {
	tail := frame[len(frame)-8:]
	var before, after uint32
	for i := 0; i < 8; i += 2 {
		before += uint32(binary.BigEndian.Uint16(tail[i:]))
	}
	copy(tail[4:], markerBytes)
	copy(tail[:2], []byte{0, 0})
	for i := 2; i < 8; i += 2 {
		after += uint32(binary.BigEndian.Uint16(tail[i:]))
	}
	for before < after {
		before += 0xffff
	}
	rest := before - after
	for rest > 0xffff {
		rest = rest>>16 + rest&0xffff
	}
	binary.BigEndian.PutUint16(tail, uint16(rest))
}

func isMarker(p lab.Packet) bool {
	return len(p.Data) > 8 && slices.Equal(p.Data[len(p.Data)-4:], markerBytes)
}

// setOuterECN changes a frame's outer IP header, and its checksum where it has one.
func setOuterECN(frame []byte, ecn uint8) {
	if ip := frame[14:]; ip[0]>>4 == 6 {
		ip[1] = ip[1]&^0x30 | ecn<<4
		return
	}
	ip := frame[14:34]
	ip[1] = ip[1]&^3 | ecn
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip))
}

// innerAt is where a frame's inner IP header begins.
func innerAt(frame []byte) int {
	d := lab.Decode(lab.Packet{Data: frame, Len: len(frame)})
	at := 0
	for _, layer := range d.Layers {
		switch layer.LayerType() {
		case layers.LayerTypeIPv4, layers.LayerTypeIPv6:
			if at > 14 {
				return at
			}
		}
		at += len(layer.LayerContents())
	}
	return 14
}

// setInner changes the inner source (0) or destination (1).
func setInner(frame []byte, at int, v4, v6 netip.Addr, which int) {
	ip := frame[at:]
	if ip[0]>>4 == 6 {
		copy(ip[8+16*which:], v6.AsSlice())
		return
	}
	copy(ip[12+4*which:], v4.AsSlice())
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip[:20]))
}
