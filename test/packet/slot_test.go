// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestRouteSlot changes what the daemon has written into the slot of a peer's
// route: by that a packet goes where the halves agree, and else by the host's entry.
func TestRouteSlot(t *testing.T) {
	m := daemonsMachine(t, daemonsState(topology.EncapVXLAN, 8472, node2), c1)
	slot := uint32(remote2.As4()[1]-172-72)<<8 | uint32(remote2.As4()[2]) // of 172.244.0.0/14
	slots := m.collection.Maps[bpf.DatapathMapRouteIndex]
	var written bpf.DatapathRouteSlot
	must(t, slots.Lookup(slot, &written))
	if written.Template == 0 || written.Mac.Byte != vtep2 {
		t.Fatalf("slot %+v has no template, or not the VTEP %v", written, vtep2)
	}
	out, back := datagram{src: c1, dst: remote2}, datagram{src: remote2, dst: c1}
	other := topology.MAC{2, 0, 0, 0, 0, 0x77}
	for _, c := range []struct {
		name   string
		change func(*bpf.DatapathRouteSlot)
		vtep   topology.MAC
	}{
		{"as written", func(*bpf.DatapathRouteSlot) {}, vtep2},
		{"another VTEP", func(s *bpf.DatapathRouteSlot) { s.Mac.Byte = other }, other},
		{"halves of two hosts", func(s *bpf.DatapathRouteSlot) { s.Mac.Byte = other; s.Tag++ }, vtep2},
		{"no template", func(s *bpf.DatapathRouteSlot) { s.Mac.Byte = other; s.Template = 0 }, vtep2},
		{"another node, half written", func(s *bpf.DatapathRouteSlot) { s.Node++; s.Tag++ }, vtep2},
		{"no node", func(s *bpf.DatapathRouteSlot) { s.Node = 0 }, vtep2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := written
			c.change(&s)
			must(t, slots.Update(slot, &s, ebpf.UpdateExist))
			in := fromC1(out)
			want := sent(in.frame, node2, out.hop(1).bytes())
			copy(want[etherLen+ipv4Len+8+8:], c.vtep[:])
			m.expect(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, in, bpf.DatapathReasonFORWARD_ENCAPSULATED, want)
			// Where it comes from is settled by the host's entry at last.
			tunnelled := from(node2, back.bytes())
			tunnelled.frameSrc = vtep2
			m.expect(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, arrives(tunnelled.bytes()),
				bpf.DatapathReasonFORWARD_DELIVERED, intoC1(back.hop(1).bytes()))
		})
	}
}

// TestRouteSlotOfNobody: a slot without a node is not that of a sender without an address.
func TestRouteSlotOfNobody(t *testing.T) {
	m := daemonsMachine(t, daemonsState(topology.EncapVXLAN, 8472, node2), c1)
	tunnelled := from(node2, datagram{src: c2, dst: c1}.bytes()) // c2 is of this node: its slot has no node
	frame := arrives(tunnelled.bytes())
	clear(frame.frame[etherLen+12 : etherLen+16])
	header := frame.frame[etherLen : etherLen+ipv4Len]
	clear(header[10:12])
	binary.BigEndian.PutUint16(header[10:], ^internetSum(header))
	m.expect(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, frame, bpf.DatapathReasonDROP_UNKNOWN_HOST, frame.frame)
}

// TestRouteSlotOfIPv4: a slot's node is of IPv4, and no sender of IPv6 whose address begins with the same bytes.
func TestRouteSlotOfIPv4(t *testing.T) {
	fourIn4 := tunnelV6{"4in4", topology.EncapIPIP, 4, node2, node3, node1, natNone, false}
	var begins [16]byte
	copy(begins[:], node2.AsSlice())
	src := netip.AddrFrom16(begins)
	machineOf(t, fourIn4, sixInSix).checkAllV6(t, []caseV6{{
		name: "4in6", program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, reason: bpf.DatapathReasonDROP_UNKNOWN_HOST,
		in:    fourIn6.arrives(fourIn6.wrap(src, 0, fourIn6.datagram(remote2, c1, 64, 0))),
		event: dropEvent{src, remote2, c1},
	}})
}
