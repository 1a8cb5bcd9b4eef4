// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"

	"github.com/bpfnet/bpfnet/bpf"
)

// fromContainer is the walk of what a container sends.
func (w *world) fromContainer(a arrival) fate {
	v := w.versionOf(a.frame)
	if f, odd := a.unusual(v); odd {
		return f
	}
	eth, ip := ethernetHeader(a.frame), ipHeader(a.frame[etherLen:])
	if ip.hasOptions() { // a router has to read them
		return a.untouched(bpf.DatapathReasonPASS_OPTIONS)
	}
	from, known := w.endpointAt(ip.src())
	if !known {
		return w.unknownSource(a)
	}
	if from.ifindex != a.ifindex {
		return a.dropped(bpf.DatapathReasonDROP_CONTAINER_SOURCE)
	}
	to, local := w.endpointAt(ip.dst())
	local = local && w.routeTo(ip.dst()) <= self // endpoints are looked for in no peer's subnet
	bridged := local && eth.dst() == to.mac
	natReason, natted := w.mayTranslate(ip)
	switch {
	case !bridged && eth.dst() != from.gateway:
		return a.untouched(bpf.DatapathReasonPASS_NOT_ROUTED)
	case local && !bridged && ip.ttl() <= 1:
		return a.untouched(bpf.DatapathReasonPASS_TTL)
	case local && natted:
		return a.untouched(natReason)
	case bridged: // what a bridge would hand over as it is
		return a.untouched(bpf.DatapathReasonFORWARD_LOCAL)
	case local:
		return fate{reason: bpf.DatapathReasonFORWARD_LOCAL, frame: routed(bytes.Clone(a.frame), to)}
	}
	peer, reason, found := w.peerTo(ip)
	switch {
	case !found:
		return a.untouched(reason)
	case ip.ttl() <= 1:
		return a.untouched(bpf.DatapathReasonPASS_TTL)
	case natted:
		return a.untouched(natReason)
	}
	hop := func() arrival {
		a.frame = bytes.Clone(a.frame)
		ipHeader(a.frame[etherLen:]).hop()
		return a
	}
	if w.udpPort != 0 && peer.encap == bpf.DatapathEncapENCAP_UDP { // by bpfnet0, as the kernel would
		if reason := peer.tooBig(a); reason != onward {
			return a.untouched(reason)
		}
		return hop().untouched(bpf.DatapathReasonFORWARD_TO_OVERLAY)
	}
	if reason := peer.unsendable(a); reason != onward {
		return a.untouched(reason)
	}
	return w.send(hop(), peer)
}

// fromHost is the walk of what the kernel routed into the overlay: it has taken the hop, and read
// the options, already. Without VXLAN nobody is behind the device to send what is passed, which is worth telling but for
// what the device itself says on its link, and for what it cuts on its way to from_veth.
func (w *world) fromHost(a arrival) fate {
	f := w.sendFromNode(a, w.versionOf(a.frame))
	if w.vxlanPort == 0 && f.reason != bpf.DatapathReasonPASS_NOT_ENCAPSULABLE {
		return f.swallowed()
	}
	return f
}

// fromVeth is the walk of what has crossed bpfnet0. Nobody is there to take what is passed.
func (w *world) fromVeth(a arrival) fate {
	return w.sendFromNode(a, w.versionOf(a.frame)).swallowed()
}

// swallowed is a fate where nobody takes what is passed, nor is meant to, of the link's own.
func (f fate) swallowed() fate {
	passed := f.reason >= bpf.DatapathReasonPASS_PROTOCOL && f.reason < bpf.DatapathReasonDROP_CONTAINER_SOURCE
	if passed && f.reason != bpf.DatapathReasonPASS_LINK_SCOPE {
		f.reason = bpf.DatapathReasonDROP_UNSENDABLE
	}
	return f
}

func (w *world) sendFromNode(a arrival, v version) fate {
	if f, odd := a.unusual(v); odd {
		return f
	}
	ip := ipHeader(a.frame[etherLen:])
	peer, reason, found := w.peerTo(ip)
	if !found {
		return a.dropped(reason)
	}
	if src := ip.src(); src != w.nodeOf(v) && w.routeTo(src) != self {
		return a.dropped(bpf.DatapathReasonDROP_NODE_SOURCE)
	}
	if reason := peer.unsendable(a); reason != onward {
		return a.dropped(reason)
	}
	return w.send(a, peer)
}

// unusual is what the kernel has to look at first, whoever sent it. v is the version of the frame.
func (a arrival) unusual(v version) (fate, bool) {
	ip := a.frame[etherLen:]
	switch {
	case v == 0:
		return a.untouched(bpf.DatapathReasonPASS_PROTOCOL), true
	case !plausible(v, ip) || ipHeader(ip).totalLen() != len(ip): // padding must not travel
		return a.untouched(bpf.DatapathReasonPASS_MALFORMED), true
	case v == ipv6 && ipHeader(ip).linkScope():
		return a.dropped(bpf.DatapathReasonPASS_LINK_SCOPE), true
	}
	return fate{}, false
}

// linkScope: IPv6's multicast and link-local addresses (RFC 4291, 2.5.6 and 2.7), and neighbour discovery, router
// solicitation to redirect (RFC 4861, 4.1 to 4.5), are the link's own.
func (h ipHeader) linkScope() bool {
	const firstType, lastType = 133, 137
	src, dst := h.src(), h.dst()
	discovery := h.protocol() == protocolICMPv6 && h.totalLen() > ipv6Len && h[ipv6Len] >= firstType && h[ipv6Len] <= lastType
	return dst.IsMulticast() || dst.IsLinkLocalUnicast() || src.IsLinkLocalUnicast() || discovery
}

// unknownSource: a container not learned yet, or one that sends as another node's, or from outside into the overlay.
func (w *world) unknownSource(a arrival) fate {
	ip := ipHeader(a.frame[etherLen:])
	ours := w.routeTo(ip.src()) == self
	theirs := w.routeTo(ip.src()) > self
	entersOverlay := w.routeTo(ip.dst()) > self
	if theirs || entersOverlay && !ours {
		return a.dropped(bpf.DatapathReasonDROP_CONTAINER_SOURCE)
	}
	return a.untouched(bpf.DatapathReasonPASS_UNKNOWN_SOURCE)
}

// peerTo is the peer behind the destination, or why there is none.
func (w *world) peerTo(ip ipHeader) (host, bpf.DatapathReason, bool) {
	index := w.routeTo(ip.dst())
	peer, found := w.hosts[index]
	switch {
	case index == self:
		return host{}, bpf.DatapathReasonPASS_LOCAL, false
	case !found:
		return host{}, bpf.DatapathReasonPASS_NO_ROUTE, false
	}
	return peer, onward, true
}

// unsendable is why the kernel has to send a packet to the peer; onward where we may. A test run gives a
// superpacket a gso_size but no gso_type: bpf_skb_adjust_room() takes that for a kind it cannot handle (net/core/filter.c).
func (peer host) unsendable(a arrival) bpf.DatapathReason {
	if reason := peer.tooBig(a); reason != onward {
		return reason
	}
	// The checksum of the tunnel's header comes of the packet's own, and is one for each segment.
	_, summed := ipHeader(a.frame[etherLen:]).coveredSum()
	if peer.needsChecksum() && (a.gsoSize != 0 || !summed) {
		return bpf.DatapathReasonPASS_UDP_CHECKSUM
	}
	if a.gsoSize != 0 && peer.encap != bpf.DatapathEncapENCAP_NONE {
		return bpf.DatapathReasonPASS_NOT_ENCAPSULABLE
	}
	return onward
}

// needsChecksum: in VXLAN over IPv6 there is one (RFC 8200, 8.1), unless the receiver takes packets without (RFC 6935).
func (peer host) needsChecksum() bool {
	return peer.encap == bpf.DatapathEncapENCAP_VXLAN && peer.node.Is6() && !peer.unsummed
}

// tooBig is why a packet does not fit the way to the peer; onward where it does.
func (peer host) tooBig(a arrival) bpf.DatapathReason {
	ip := ipHeader(a.frame[etherLen:])
	size := ip.totalLen()
	if a.gsoSize != 0 && size > int(peer.mtu) {
		headers, known := ip.segmentHeaders()
		size = headers + int(a.gsoSize) // of the largest segment
		switch {
		case a.gsoSize == 0xffff && peer.encap != bpf.DatapathEncapENCAP_NONE:
			return bpf.DatapathReasonPASS_NOT_ENCAPSULABLE
		case !known:
			return bpf.DatapathReasonPASS_TOO_BIG
		}
	}
	if size > int(peer.mtu) {
		return bpf.DatapathReasonPASS_TOO_BIG
	}
	return onward
}

// segmentHeaders is how much of a packet each of its segments repeats. Not known is the length of IPv6's extension headers.
func (h ipHeader) segmentHeaders() (length int, known bool) {
	transport := h[h.version().headerLen():]
	length, known = h.version().headerLen(), true
	switch {
	case h.isFragment():
	case !h.isV6() && h.hasOptions(): // the transport header is not looked for: the longest there can be
		length = 60 + 60
	case h.protocol() == protocolTCP:
		if len(transport) >= 13 {
			length += int(transport[12]>>4) * 4
		}
	case h.protocol() == protocolUDP, h.protocol() == protocolSCTP:
		if len(transport) >= udpLen {
			length += udpLen
		}
	default:
		known = !h.isV6()
	}
	return length, known
}

// send puts the peer's outer header in front of a packet that fits.
func (w *world) send(a arrival, peer host) fate {
	if peer.encap == bpf.DatapathEncapENCAP_NONE {
		return a.untouched(bpf.DatapathReasonFORWARD_ROUTED)
	}
	ip := ipHeader(a.frame[etherLen:])
	frame := join(a.frame[:etherLen], w.outer(peer, ip), ip)
	ethernetHeader(frame).setEtherType(versionOf(peer.node).etherType())
	return fate{reason: bpf.DatapathReasonFORWARD_ENCAPSULATED, frame: frame}
}

// outer is the header in front of ip on its way to peer: DESIGN section 6.
func (w *world) outer(peer host, ip ipHeader) []byte {
	switch peer.encap {
	case bpf.DatapathEncapENCAP_VXLAN:
		ours := w.overlayOf(versionOf(peer.node)).mac
		eth := join(peer.vtep[:], ours[:], binary.BigEndian.AppendUint16(nil, ip.version().etherType()))
		vxlan := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, w.vni<<8)
		udp := udpHeader(0, w.vxlanPort, len(vxlan)+len(eth)+len(ip))
		return join(w.outerIP(peer, ip, protocolUDP, len(udp)+len(vxlan)+len(eth)), udp, vxlan, eth)
	case bpf.DatapathEncapENCAP_UDP:
		udp := udpHeader(w.udpPort, w.udpPort, len(ip))
		return join(w.outerIP(peer, ip, protocolUDP, len(udp)), udp)
	default:
		return w.outerIP(peer, ip, ip.version().tunnelled(), 0)
	}
}

// outerIP is the outer IP header: RFC 2003, RFC 2473, and RFC 6040 as INET_ECN_encapsulate() has it.
// between is how many bytes of other headers follow it.
func (w *world) outerIP(peer host, inner ipHeader, protocol uint8, between int) []byte {
	tos, ttl := peer.tos|encapsulatedECN(inner.tos()&3), peer.ttl
	if ttl == 0 {
		ttl = inner.ttl()
	}
	if peer.node.Is6() {
		h := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(tos)<<20)
		h = binary.BigEndian.AppendUint16(h, uint16(between+len(inner)))
		return join(h, []byte{protocol, ttl}, w.node6.AsSlice(), peer.node.AsSlice())
	}
	h := ipHeader(join([]byte{0x45, tos}, binary.BigEndian.AppendUint16(nil, uint16(ipv4Len+between+len(inner))),
		[]byte{0, 0, 0, 0, ttl, protocol, 0, 0}, w.node.AsSlice(), peer.node.AsSlice()))
	if peer.df || peer.inheritDF && inner.dontFrag() {
		h[6] = 0x40
	}
	h.setChecksum()
	return h
}

// encapsulatedECN never lets a congestion mark of before the tunnel count as one of the tunnel.
func encapsulatedECN(inner uint8) uint8 {
	if inner == 3 {
		return 2
	}
	return inner
}

// udpHeader has no checksum: RFC 7348, section 5.
func udpHeader(src, dst uint16, payload int) []byte {
	h := make([]byte, udpLen)
	binary.BigEndian.PutUint16(h[0:], src)
	binary.BigEndian.PutUint16(h[2:], dst)
	binary.BigEndian.PutUint16(h[4:], uint16(udpLen+payload))
	return h
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
