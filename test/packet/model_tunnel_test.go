// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// tunnel is a tunnel packet of our network.
type tunnel struct {
	outer    ipHeader
	version  version        // of what is inside
	fragment bool           // the first of the outer packet
	udp      []byte         // UDP header and what it covers; nil in IP in IP
	frame    ethernetHeader // VXLAN's inner one, else nil
	inner    []byte         // up to the end of the outer packet
	rest     []byte         // from inner to the end of the frame: padding may follow
}

// recognise takes an outer packet apart, or says why it is no tunnel packet of this network. What tells
// whose it is is read wherever it stands in the frame; then it has to lie within the lengths of the headers too.
func (w *world) recognise(ip []byte) (tunnel, bpf.DatapathReason) {
	t := tunnel{outer: ipHeader(ip)}
	if node := w.nodeOf(t.outer.version()); !node.IsValid() || t.outer.dst() != node {
		return t, bpf.DatapathReasonPASS_NOT_OURS
	}
	protocol, header, offset := t.outer.protocol(), t.outer.version().headerLen(), uint16(0)
	t.fragment = t.outer.isFragment()
	switch {
	case t.outer.isV6() && t.fragment:
		header += fragmentLen
		if t.outer.totalLen() < header {
			return t, bpf.DatapathReasonPASS_MALFORMED
		}
		protocol, offset = ip[ipv6Len], binary.BigEndian.Uint16(ip[ipv6Len+2:])>>3
	case !t.outer.isV6():
		offset = binary.BigEndian.Uint16(ip[6:]) & 0x1fff
	}
	t.version = w.versionInside(t.outer, protocol)
	switch {
	case t.version == 0:
		return t, bpf.DatapathReasonPASS_NOT_OURS
	case offset != 0: // only the first fragment tells whose they are
		return t, bpf.DatapathReasonPASS_OUTER_FRAGMENT
	case !t.outer.isV6() && t.outer.hasOptions():
		return t, w.tunnelOptions(t.outer)
	}
	payload, room := ip[header:], t.outer.totalLen()-header
	between, reason := 0, bpf.DatapathReason(0)
	if protocol == protocolUDP {
		between, reason = w.recogniseUDP(payload, room, t.fragment)
	} else {
		reason = w.recogniseIPIP(t.version, payload, room)
	}
	if reason != onward {
		return t, reason
	}
	if protocol == protocolUDP {
		t.udp = payload[:room]
	}
	if between > udpLen {
		t.frame = ethernetHeader(payload[udpLen+vxlanLen:])
	}
	t.inner, t.rest = payload[between:room], payload[between:]
	if t.fragment && len(t.inner) < t.version.headerLen() {
		return t, bpf.DatapathReasonDROP_TUNNEL_MALFORMED
	}
	return t, onward
}

// versionInside is that of what a tunnel with that protocol carries; 0 if it is none. UDP carries what it is carried by.
// Of IP in IP only one with both versions has to be in use for us to look; what carries the outer packet's own does by itself.
func (w *world) versionInside(outer ipHeader, protocol uint8) version {
	switch v := outer.version(); {
	case protocol == protocolUDP, protocol == v.tunnelled():
		return v
	case protocol == protocolIPv6 && w.ipip && w.useIPv6:
		return ipv6
	case protocol == protocolIPIP && w.ipip:
		return ipv4
	}
	return 0
}

// tunnelOptions: no tunnel of ours sends IP options; other UDP with them is the kernel's.
func (w *world) tunnelOptions(outer ipHeader) bpf.DatapathReason {
	if outer.protocol() == protocolUDP && len(outer) >= outer.len()+udpLen {
		if port := binary.BigEndian.Uint16(outer[outer.len()+2:]); port != 0 && (port == w.udpPort || port == w.vxlanPort) {
			return bpf.DatapathReasonDROP_TUNNEL_MALFORMED
		}
	}
	return bpf.DatapathReasonPASS_OPTIONS
}

// recogniseIPIP: IP in IP has no number of a network; ours is what goes to our subnet.
func (w *world) recogniseIPIP(v version, payload []byte, room int) bpf.DatapathReason {
	switch {
	case !w.ipip:
		return bpf.DatapathReasonPASS_NOT_OURS
	case room < v.headerLen():
		return bpf.DatapathReasonPASS_MALFORMED
	}
	if w.routeTo(v.dst(payload)) != self {
		return bpf.DatapathReasonPASS_NOT_OURS
	}
	return onward
}

// recogniseUDP returns how long the headers between outer and inner IP header are.
func (w *world) recogniseUDP(payload []byte, room int, fragment bool) (int, bpf.DatapathReason) {
	if len(payload) < udpLen {
		return 0, bpf.DatapathReasonPASS_NOT_OURS
	}
	port, length := binary.BigEndian.Uint16(payload[2:]), int(binary.BigEndian.Uint16(payload[4:]))
	isUDP := w.udpPort != 0 && port == w.udpPort
	isVXLAN := w.vxlanPort != 0 && port == w.vxlanPort
	switch {
	case !isUDP && !isVXLAN:
		return 0, bpf.DatapathReasonPASS_NOT_OURS
	case room < udpLen, isVXLAN && room < udpLen+vxlanLen+etherLen, !fragment && length != room:
		return 0, bpf.DatapathReasonDROP_TUNNEL_MALFORMED
	case isUDP:
		return udpLen, onward
	case binary.BigEndian.Uint32(payload[udpLen:]) != 0x08000000, // RFC 7348, 5: I and no other bit
		binary.BigEndian.Uint32(payload[udpLen+4:]) != w.vni<<8:
		return 0, bpf.DatapathReasonPASS_NOT_OURS
	}
	return udpLen + vxlanLen + etherLen, onward
}

// verify is the fate of a tunnel packet that must not be taken out of its tunnel here; onward of one that may. What
// it passes is of a node that has been checked.
func (w *world) verify(a arrival, t tunnel) fate {
	f := a.untouched(onward)
	f.outer = t.outer.src()
	if t.frame != nil && (t.frame.etherType() != t.version.etherType() || t.frame.dst() != w.overlayOf(t.outer.version()).mac) {
		f.reason = bpf.DatapathReasonPASS_INNER_NOT_ROUTED
		if !w.isNode(f.outer) {
			f.reason = bpf.DatapathReasonDROP_UNKNOWN_HOST
		}
		return f
	}
	if !t.plausible() {
		f.reason = bpf.DatapathReasonDROP_INNER_MALFORMED
		return f
	}
	inner := ipHeader(t.inner)
	f.src, f.dst = inner.src(), inner.dst()
	sum := sumRight
	if a.gsoSize == 0 { // a superpacket's was verified when it was put together, or is to be made yet
		sum = t.udpSum(inner)
	}
	switch {
	case !w.isNode(f.outer):
		f.reason = bpf.DatapathReasonDROP_UNKNOWN_HOST
	case !w.maySend(f.outer, f.src):
		f.reason = bpf.DatapathReasonDROP_SPOOFED_SOURCE
	case t.fragment:
		f.reason = bpf.DatapathReasonPASS_OUTER_FRAGMENT
	case t.frame != nil && sum > sumPartial: // the kernel's device judges
		f.reason = bpf.DatapathReasonPASS_UDP_CHECKSUM
	case sum == sumWrong:
		f.reason = bpf.DatapathReasonDROP_TUNNEL_MALFORMED
	}
	return f
}

// plausible: of a fragmented outer packet the rest of the inner one is in other fragments.
func (t tunnel) plausible() bool {
	room := len(t.inner)
	if t.fragment {
		room = 0xffff
	}
	return plausibleStart(t.version, t.inner, room)
}

// maySend: a node sends for its subnets, and from its own address.
func (w *world) maySend(node, src netip.Addr) bool {
	peer, _ := w.peerBehind(src)
	return src == node || peer.node == node
}

// decapsulatedTOS is the inner TOS behind the tunnel, and whether the packet has to be dropped:
// figure 4 of RFC 6040, as the kernel reads it.
func decapsulatedTOS(outer, inner uint8) (uint8, bool) {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	ecn := inner & 3
	switch {
	case ecn == notECT && outer&3 == ce:
		return 0, true
	case ecn != notECT && outer&3 == ce:
		ecn = ce
	case ecn == ect0 && outer&3 == ect1:
		ecn = ect1
	}
	return inner&^3 | ecn, false
}
