// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

// fromNetwork is the walk of what the uplink receives.
func (w *world) fromNetwork(a arrival) fate {
	eth, ip := ethernetHeader(a.frame), a.frame[etherLen:]
	switch {
	case w.ownFrame(eth):
		return w.deliverOwn(a)
	case !eth.isIPv4():
		return a.untouched(bpf.DatapathReasonPASS_PROTOCOL)
	case eth.dst() != linkAt(a.ifindex).mac && eth[0]&1 == 0: // PACKET_OTHERHOST, to the kernel
		return a.untouched(bpf.DatapathReasonPASS_NOT_ROUTED)
	case !plausible(ip):
		return a.untouched(bpf.DatapathReasonPASS_MALFORMED)
	}
	outer := ipv4Header(ip)
	tunnelled := outer.protocol() == protocolUDP || outer.protocol() == protocolIPIP
	switch {
	case outer.dst() != w.node || !tunnelled:
		return w.routeIn(a)
	case outer.offset() != 0: // only the first fragment tells whose they are
		return a.untouched(bpf.DatapathReasonPASS_OUTER_FRAGMENT)
	case outer.hasOptions() && !w.tunnelPort(outer):
		return a.untouched(bpf.DatapathReasonPASS_OPTIONS)
	case outer.hasOptions():
		return a.oddTunnel(outer)
	}
	t, reason, ours := w.recognise(a.frame)
	switch {
	case ours && eth.dst() != linkAt(a.ifindex).mac, reason == bpf.DatapathReasonDROP_TUNNEL_MALFORMED:
		return a.oddTunnel(outer)
	case ours:
		return w.decapsulate(a, t)
	case reason == bpf.DatapathReasonPASS_NOT_OURS:
		return w.routeIn(a)
	}
	return a.untouched(reason)
}

// oddTunnel is the fate of what the kernel's tunnel device would forgive, and no node of ours sends.
func (a arrival) oddTunnel(outer ipv4Header) fate {
	f := a.untouched(bpf.DatapathReasonDROP_TUNNEL_MALFORMED)
	f.outer = outer.src()
	return f
}

// tunnelPort: the UDP header behind the options has a port of the tunnels'.
func (w *world) tunnelPort(outer ipv4Header) bool {
	if outer.protocol() != protocolUDP || len(outer) < outer.len()+udpLen {
		return false
	}
	port := binary.BigEndian.Uint16(outer[outer.len()+2:])
	return port != 0 && (port == w.udpPort || port == w.vxlanPort)
}

// markChecked is what the programs ask for.
const markChecked = maps.MarkChecked

// fromOverlay is the walk of what comes out of bpfnet0: only what fromNetwork has checked goes on.
func (*world) fromOverlay(a arrival) fate {
	if a.mark&markChecked != markChecked {
		return a.untouched(bpf.DatapathReasonDROP_UNCHECKED)
	}
	return a.untouched(bpf.DatapathReasonPASS_CHECKED)
}

// tunnel is a tunnel packet of our network.
type tunnel struct {
	outer ipv4Header
	frame ethernetHeader // VXLAN's inner one, else nil
	inner []byte         // up to the end of the outer packet
	rest  []byte         // from inner to the end of the frame: padding may follow
}

// recognise takes a tunnel packet apart, or says why it is none of ours. What tells whose it is is
// read wherever it stands in the frame; then it has to lie within the lengths of the headers too.
func (w *world) recognise(frame []byte) (tunnel, bpf.DatapathReason, bool) {
	ip := frame[etherLen:]
	t := tunnel{outer: ipv4Header(ip)}
	payload, room := ip[ipv4Len:], t.outer.totalLen()-ipv4Len
	header := 0
	if t.outer.protocol() == protocolIPIP {
		reason, ok := w.recogniseIPIP(payload, room)
		if !ok {
			return t, reason, false
		}
	} else {
		length, reason, ok := w.recogniseUDP(payload, room, t.outer.isFragment())
		if !ok {
			return t, reason, false
		}
		header = length
		if header > udpLen {
			t.frame = ethernetHeader(payload[udpLen+vxlanLen:])
		}
	}
	if !t.outer.checksumOK() {
		return t, bpf.DatapathReasonPASS_MALFORMED, false
	}
	t.inner, t.rest = payload[header:room], payload[header:]
	if t.outer.isFragment() && room-header < ipv4Len {
		return t, bpf.DatapathReasonDROP_TUNNEL_MALFORMED, false
	}
	return t, 0, true
}

// recogniseIPIP: protocol 4 has no number of a network; ours is what goes to our subnet.
func (w *world) recogniseIPIP(payload []byte, room int) (bpf.DatapathReason, bool) {
	switch {
	case !w.ipip:
		return bpf.DatapathReasonPASS_NOT_OURS, false
	case room < ipv4Len:
		return bpf.DatapathReasonPASS_MALFORMED, false
	case w.routeTo(ipv4Header(payload).dst()) != self:
		return bpf.DatapathReasonPASS_NOT_OURS, false
	}
	return 0, true
}

// recogniseUDP returns how long the headers between outer and inner IP header are.
func (w *world) recogniseUDP(payload []byte, room int, fragment bool) (int, bpf.DatapathReason, bool) {
	if len(payload) < udpLen {
		return 0, bpf.DatapathReasonPASS_NOT_OURS, false
	}
	port, length := binary.BigEndian.Uint16(payload[2:]), int(binary.BigEndian.Uint16(payload[4:]))
	isUDP := w.udpPort != 0 && port == w.udpPort
	isVXLAN := w.vxlanPort != 0 && port == w.vxlanPort
	switch {
	case !isUDP && !isVXLAN:
		return 0, bpf.DatapathReasonPASS_NOT_OURS, false
	case room < udpLen, isVXLAN && room < udpLen+vxlanLen+etherLen, !fragment && length != room:
		return 0, bpf.DatapathReasonDROP_TUNNEL_MALFORMED, false
	case isUDP:
		return udpLen, 0, true
	case binary.BigEndian.Uint32(payload[udpLen:]) != 0x08000000, // RFC 7348, 5: I and no other bit
		binary.BigEndian.Uint32(payload[udpLen+4:]) != w.vni<<8:
		return 0, bpf.DatapathReasonPASS_NOT_OURS, false
	}
	return udpLen + vxlanLen + etherLen, 0, true
}

func (w *world) decapsulate(a arrival, t tunnel) fate {
	f := a.untouched(0)
	f.outer = t.outer.src()
	if t.frame != nil && (!t.frame.isIPv4() || t.frame.dst() != w.overlay.mac) {
		f.reason, f.checked = bpf.DatapathReasonPASS_INNER_NOT_ROUTED, true
		if !w.isNode(f.outer) {
			f.reason, f.checked = bpf.DatapathReasonDROP_UNKNOWN_HOST, false
		}
		return f
	}
	if whole := !t.outer.isFragment(); whole && !plausible(t.inner) || !plausibleStart(t.inner) {
		f.reason = bpf.DatapathReasonDROP_INNER_MALFORMED
		return f
	}
	inner := ipv4Header(t.inner)
	f.src, f.dst = inner.src(), inner.dst()
	tos, congested := decapsulatedTOS(t.outer[1], inner[1])
	natReason, natted := w.leaveToNAT(t)
	sum := t.udpSum(inner)
	switch {
	case !w.isNode(f.outer):
		f.reason = bpf.DatapathReasonDROP_UNKNOWN_HOST
	case !w.maySend(f.outer, f.src):
		f.reason = bpf.DatapathReasonDROP_SPOOFED_SOURCE
	case t.outer.isFragment():
		f.reason, f.checked = bpf.DatapathReasonPASS_OUTER_FRAGMENT, true
	case a.gsoSize != 0 && inner.protocol() == protocolUDP && t.frame != nil:
		f.reason, f.checked = bpf.DatapathReasonPASS_UDP_SUPERPACKET, true
	case a.gsoSize != 0 && inner.protocol() == protocolUDP && t.outer.protocol() == protocolUDP:
		f.reason = bpf.DatapathReasonDROP_DECAPSULATE
	case a.gsoSize == 0 && t.frame != nil && sum > sumPending: // the kernel's device judges
		f.reason, f.checked = bpf.DatapathReasonPASS_UDP_CHECKSUM, true
	case a.gsoSize == 0 && sum == sumWrong:
		f.reason = bpf.DatapathReasonDROP_TUNNEL_MALFORMED
	case congested:
		f.reason = bpf.DatapathReasonDROP_ECN
	case natted && t.frame != nil:
		f.reason, f.checked = natReason, true
	case a.gsoSize != 0:
		f.reason, f.frame = bpf.DatapathReasonDROP_DECAPSULATE, nil // as refused() says
	default:
		f.reason, f.frame = w.deliver(a, t, tos)
		f.checked = f.reason == bpf.DatapathReasonFORWARD_TO_HOST
	}
	return f
}

// maySend: a node sends for its subnet, and from its own address.
func (w *world) maySend(node, src netip.Addr) bool {
	peer, _ := w.peerBehind(src)
	return src == node || peer.node == node
}

// deliver takes the outer header off and hands the packet to its container, or to the stack where
// that has to answer, read options, or knows where it goes.
func (w *world) deliver(a arrival, t tunnel, tos uint8) (bpf.DatapathReason, []byte) {
	frame := join(a.frame[:etherLen], t.rest)
	ip := ipv4Header(frame[etherLen:])
	if ip[1] != tos {
		ip.change(func() { ip[1] = tos })
	}
	to, found := w.endpointAt(ip.dst())
	if _, natted := w.leaveToNAT(t); found && ip.ttl() > 1 && !ip.hasOptions() && !natted {
		return bpf.DatapathReasonFORWARD_DELIVERED, routed(frame, to)
	}
	ethernetHeader(frame).setDst(w.overlay.mac)
	return bpf.DatapathReasonFORWARD_TO_HOST, frame
}

// leaveToNAT: a packet out of a tunnel that would go to a container.
func (w *world) leaveToNAT(t tunnel) (bpf.DatapathReason, bool) {
	ip := ipv4Header(t.rest)
	_, found := w.endpointAt(ip.dst())
	if !found || ip.ttl() <= 1 || ip.hasOptions() {
		return 0, false
	}
	return w.mayTranslate(ip)
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

// routeIn is a plain packet of a host-gw peer to a container here. Whatever else comes in is none
// of ours.
func (w *world) routeIn(a arrival) fate {
	ip := ipv4Header(a.frame[etherLen:])
	to, found := w.endpointAt(ip.dst())
	peer, known := w.peerBehind(ip.src())
	plain := known && peer.encap == bpf.DatapathEncapENCAP_NONE
	unicast := a.frame[0]&1 == 0
	from := w.routeTo(ip.src())
	inbound := ip.dst() != w.node && w.routeTo(ip.dst()) == self
	if inbound && (from == self || from > self && !w.direct) {
		return a.dropped(bpf.DatapathReasonDROP_SPOOFED_SOURCE)
	}
	if !w.direct || !inbound || !unicast || !found || !plain || ip.hasOptions() || ip.ttl() <= 1 || !ip.checksumOK() {
		return a.untouched(bpf.DatapathReasonPASS_NOT_OURS)
	}
	if reason, natted := w.mayTranslate(ip); natted {
		return a.untouched(reason)
	}
	return fate{reason: bpf.DatapathReasonFORWARD_DELIVERED, frame: routed(a.frame, to)}
}

// routed is the frame after one hop into a container.
func routed(frame []byte, to endpoint) []byte {
	frame = bytes.Clone(frame)
	eth, ip := ethernetHeader(frame), ipv4Header(frame[etherLen:])
	eth.setDst(to.mac)
	eth.setSrc(to.gateway)
	ip.change(func() { ip[8]-- })
	return frame
}
