// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/lab"
)

// testOuterFragments is TestOuterFragmentsInAnyOrder where one of the families is
// IPv6: the underlay brings h2 a tunnel packet in fragments, in any order.
func (m *matrix) testOuterFragments(t *testing.T) {
	const ect0, ce = 2, 3
	h2, family := m.Hosts[1], m.inner
	frame := m.tunnelled(t, family, ect0)
	m.listen(t, frame)
	inner := slices.Clone(frame[innerAt(frame):])
	random := rand.New(rand.NewPCG(3, 4))
	for range 3 {
		fragments := outerFragments(t, frame, 80)
		setOuterECN(fragments[1], ce)
		m.discard(t)
		before := counters(t, h2)
		m.bring(t, random, fragments)
		var arrived []seen
		at := m.captures[iface{h2.Containers[0].NS, "eth0"}]
		until(t, "the packet has arrived", func() (bool, error) {
			packets, err := at.Take()
			for _, p := range packets {
				if s := (seen{Packet: p, Decoded: lab.Decode(p)}); !p.Outgoing && len(s.UDP) > 0 {
					arrived = append(arrived, s)
				}
			}
			return len(arrived) > 0, err
		})
		s := arrived[0]
		equal(t, "packets, TTL, TOS, as sent by the router h2", []any{1, uint8(62), uint8(ce)}, []any{len(arrived), s.IP[0].TTL, s.IP[0].TOS})
		noError(t, lab.VerifyChecksums(s.Packet))
		if diff := cmp.Diff(inner[len(inner)-107:], s.Data[len(s.Data)-107:]); diff != "" { // the datagram
			t.Errorf("datagram (-sent +arrived):\n%s", diff)
		}
		moved := counters(t, h2).Since(before)
		equal(t, "fragments, packets let in", []uint64{uint64(len(fragments)), 1},
			[]uint64{moved[counterKey(networkOuterFragment)], moved[counterKey(overlayChecked)]})
	}
	stranger := slices.Clone(frame)
	if ip := stranger[14:]; ip[0]>>4 == 6 {
		ip[23] ^= 0x55
	} else {
		ip[15] ^= 0x55
	}
	before := counters(t, h2)
	m.bring(t, random, outerFragments(t, stranger, 80))
	ping(t, h2.NS, h2.Containers[0].In(family), lab.PingOptions{Count: 1})
	moved := counters(t, h2).Since(before)
	equal(t, "a stranger's first fragments that were dropped, and packets let in", []uint64{1, 0},
		[]uint64{moved[counterKey("from_network drop/unknown_host")], moved[counterKey(overlayChecked)]})
}

// bring has the underlay bring frames to h2 in an order of its own.
func (m *matrix) bring(t *testing.T, random *rand.Rand, frames [][]byte) {
	t.Helper()
	random.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	send(t, m.Wire(), m.Hosts[1].Name, frames...)
}

// outerFragments cuts a frame's first IP packet into fragments of size bytes of payload (RFC 8200, 4.5).
func outerFragments(t *testing.T, frame []byte, size int) (all [][]byte) {
	t.Helper()
	id := rand.Uint32()
	ethernet, ip := frame[:14], slices.Clone(frame[14:])
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[4:], uint16(id))
		for _, f := range fragmentsOf(t, ip, size) {
			all = append(all, slices.Concat(ethernet, f))
		}
		return all
	}
	header, payload := ip[:40], ip[40:]
	next := header[6]
	header[6] = unix.IPPROTO_FRAGMENT
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		offset := uint16(at)
		if end < len(payload) {
			offset |= 1
		}
		binary.BigEndian.PutUint16(header[4:], uint16(8+end-at))
		extension := binary.BigEndian.AppendUint16([]byte{next, 0}, offset)
		extension = binary.BigEndian.AppendUint32(extension, id)
		all = append(all, slices.Concat(ethernet, header, extension, payload[at:end]))
	}
	return all
}
