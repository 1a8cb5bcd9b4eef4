// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// Slot is a filled slot of route_index.
type Slot struct {
	Host uint32 // index in hosts
	Shortcut
}

// Shortcut is what a packet to or from a host needs of it that is not the same
// for many hosts. Together with the template it says what the host's entry says.
type Shortcut struct {
	Node     netip.Addr // of IPv4; the zero Addr where the host's address is not
	VTEP     MAC        // zero where it has none
	Template uint8      // number in templates; 0: packets are sent by the entry of hosts
}

func encodeSlot(s Slot) (bpf.DatapathRouteSlot, error) {
	w := bpf.DatapathRouteSlot{
		Host: s.Host, Mac: bpf.DatapathMac{Byte: s.VTEP}, Template: s.Template, Tag: uint8(s.Host),
	}
	switch {
	case s.Node.Is4():
		b := s.Node.As4()
		w.Node = binary.NativeEndian.Uint32(b[:])
	case s.Node.IsValid() || s.Template != 0:
		return w, fmt.Errorf("node %s, which is not of IPv4", s.Node)
	}
	return w, nil
}

// decodeSlot takes what is behind the tag as the programs do: not at all where that does not agree.
func decodeSlot(w bpf.DatapathRouteSlot) Slot {
	s := Slot{Host: w.Host}
	if w.Tag == uint8(w.Host) {
		s.VTEP, s.Template = w.Mac.Byte, w.Template
	}
	if w.Node != 0 {
		s.Node = netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, w.Node)))
	}
	return s
}
