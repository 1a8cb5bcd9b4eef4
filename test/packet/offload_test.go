// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"slices"

	"github.com/gopacket/gopacket/layers"
)

// unsummed is a frame as a container's kernel hands it over: where the header says that the checksum is
// to be filled in, it has the sum of the pseudo header (RFC 9293, 3.1) there.
func unsummed(frame []byte, h vnetHeader) []byte {
	if h.Flags&needsCsum == 0 {
		return frame
	}
	ip := ipHeader(frame[etherLen:])
	length := uint16(ip.totalLen() - ip.len())
	pseudo := join(ip[12:20], []byte{0, ip.protocol(), byte(length >> 8), byte(length)})
	return patched(frame, put16(int(h.CsumStart+h.CsumOffset), internetSum(pseudo)))
}

// segments are what a superpacket stands for: packets with numbers of their own.
func segments(d datagram, h vnetHeader) (all []datagram) {
	if h.GSOSize == 0 {
		return []datagram{d}
	}
	offset := 0
	for payload := range slices.Chunk(d.payload, int(h.GSOSize)) {
		s := d
		s.payload, s.id = payload, d.id+uint16(len(all))
		if tcp, ok := d.transport.(*layers.TCP); ok {
			segment := *tcp
			segment.Seq += uint32(offset)
			s.transport = &segment
		}
		all = append(all, s)
		offset += len(payload)
	}
	return all
}
