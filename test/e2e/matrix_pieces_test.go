// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"maps"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/node"
)

// piece is a packet as it is once all superpackets are cut.
type piece struct {
	Protocol   layers.IPProtocol
	ID         uint32 // of fragments
	At, Length int    // in the datagram or the stream; bytes
}

// pieces are what a packet stands for. Of TCP that is its payload.
func (s seen) pieces() (all []piece) {
	ip := s.inner
	header, at := 0, 0
	switch {
	case ip.IsFragment():
		return []piece{{ip.Protocol, ip.ID, ip.FragOffset, ip.PayloadLength()}}
	case ip.Protocol == layers.IPProtocolTCP && len(s.TCP) > 0:
		header, at = 4*int(s.TCP[0].DataOffset), int(s.TCP[0].Seq)
	case ip.Protocol == layers.IPProtocolUDP:
		header = 8
	}
	length := ip.PayloadLength() - header
	if ip.Protocol == layers.IPProtocolTCP && length == 0 {
		return nil
	}
	each := length
	if s.GSOSize > 0 {
		each = s.GSOSize
	}
	for first := 0; first == 0 || first < length; first += max(each, 1) {
		p := piece{Protocol: ip.Protocol, Length: min(each, length-first)}
		if ip.Protocol == layers.IPProtocolTCP {
			p.At = int(uint32(at + first))
		}
		all = append(all, p)
	}
	return all
}

// piecesOf are how often each piece was seen; of a stream, whose pieces may be
// sent again, that it was.
func piecesOf(packets []seen) map[piece]int {
	all := map[piece]int{}
	for _, s := range packets {
		for _, p := range s.pieces() {
			if all[p]++; p.Protocol == layers.IPProtocolTCP {
				all[p] = 1
			}
		}
	}
	return all
}

// checkPieces: wherever a packet is cut and merged on its way, it stands for the same pieces everywhere.
func (r *row) checkPieces() (err error) {
	for _, back := range []bool{false, true} {
		d, hosts := r.way.there, []int{0, 1}
		if back {
			d = r.way.back
		}
		if (r.from.ns == r.behind.NS) != back {
			hosts = []int{1, 0}
		}
		places := []place{d.first}
		if r.way.wire >= 0 {
			places = append(places, sent(hosts[0]), arrived(hosts[1]))
		}
		places = append(places, d.last)
		var want map[piece]int
		for i, p := range places {
			got := piecesOf(r.at(p, back))
			if i == 0 {
				if want = got; len(got) == 0 && !back {
					return errors.New("nothing was sent")
				}
			}
			if i == len(places)-1 && r.droppedOutside(hosts[0], hosts[1]) {
				for p := range want {
					want[p] = 1 // the intact one
				}
			}
			if !maps.Equal(want, got) {
				err = errors.Join(err, fmt.Errorf("back %v: pieces at %v (-sent +seen there):\n%s", back, p(r.matrix, r.family), cmp.Diff(want, got)))
			}
		}
	}
	return err
}

// droppedOutside says whether the receiving host drops what has a wrong checksum
// before its receiver does: the outer one reckoned from it is wrong too, which the
// kernel's device verifies.
func (r *row) droppedOutside(from, to int) bool {
	return r.kind.wrong() && r.way.wire >= 0 && r.sums(from) && r.dataplanes[from] == node.EBPF && r.dataplanes[to] == node.Netlink
}
