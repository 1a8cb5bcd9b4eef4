// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"

	"github.com/bpfnet/bpfnet/bpf"
)

// fromContainer is the walk of what a container sends.
func (w *world) fromContainer(a arrival) fate {
	if f, odd := a.unusual(); odd {
		return f
	}
	eth, ip := ethernetHeader(a.frame), ipv4Header(a.frame[etherLen:])
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
	reason, natted := w.mayTranslate(ip)
	switch {
	case !bridged && eth.dst() != from.gateway:
		return a.untouched(bpf.DatapathReasonPASS_NOT_ROUTED)
	case local && !bridged && ip.ttl() <= 1:
		return a.untouched(bpf.DatapathReasonPASS_TTL)
	case local && natted:
		return a.untouched(reason)
	case bridged: // what a bridge would hand over as it is
		return a.untouched(bpf.DatapathReasonFORWARD_LOCAL)
	case local:
		return fate{reason: bpf.DatapathReasonFORWARD_LOCAL, frame: routed(a.frame, to)}
	}
	peer, f, found := w.peerOf(a)
	if !found {
		return f
	}
	if ip.ttl() <= 1 {
		return a.untouched(bpf.DatapathReasonPASS_TTL)
	}
	if natted {
		return a.untouched(reason)
	}
	if why := peer.tooBig(a); why != 0 {
		return a.untouched(why)
	}
	ip = bytes.Clone(ip)
	ip.change(func() { ip[8]-- })
	a.frame = join(a.frame[:etherLen], ip)
	if w.udpPort != 0 && peer.encap == bpf.DatapathEncapENCAP_UDP { // by bpfnet0, as the kernel would
		return a.untouched(bpf.DatapathReasonFORWARD_TO_OVERLAY)
	}
	return w.send(a, peer)
}

// fromHost is the walk of what the kernel routed into the overlay: it has taken the hop, and read
// the options, already. Without VXLAN nobody is behind bpfnet0 to send what is passed.
func (w *world) fromHost(a arrival) fate {
	if f := w.sendFromNode(a); w.vxlanPort != 0 {
		return f
	}
	return w.fromVeth(a)
}

// fromVeth is the walk of what has crossed bpfnet0. Nobody is there to take what is passed.
func (w *world) fromVeth(a arrival) fate {
	f := w.sendFromNode(a)
	if f.reason < bpf.DatapathReasonPASS_PROTOCOL || f.reason >= bpf.DatapathReasonDROP_CONTAINER_SOURCE {
		return f
	}
	if ip := a.frame[etherLen:]; ethernetHeader(a.frame).isIPv4() && plausible(ip) && ipv4Header(ip).totalLen() == len(ip) {
		return a.dropped(bpf.DatapathReasonDROP_UNSENDABLE)
	}
	return a.untouched(bpf.DatapathReasonDROP_UNSENDABLE)
}

func (w *world) sendFromNode(a arrival) fate {
	if f, odd := a.unusual(); odd {
		return f
	}
	peer, f, found := w.peerOf(a)
	if !found {
		return f
	}
	src := ipv4Header(a.frame[etherLen:]).src()
	if src != w.node && w.routeTo(src) != self {
		return a.dropped(bpf.DatapathReasonDROP_NODE_SOURCE)
	}
	if reason := peer.tooBig(a); reason != 0 {
		return a.untouched(reason)
	}
	return w.send(a, peer)
}

// unusual is what the kernel has to look at first, whoever sent it.
func (a arrival) unusual() (fate, bool) {
	ip := a.frame[etherLen:]
	switch {
	case !ethernetHeader(a.frame).isIPv4():
		return a.untouched(bpf.DatapathReasonPASS_PROTOCOL), true
	case !plausible(ip) || ipv4Header(ip).totalLen() != len(ip):
		return a.untouched(bpf.DatapathReasonPASS_MALFORMED), true
	}
	return fate{}, false
}

// dropped is the fate of a plain packet that must not go on.
// unknownSource: a container not learned yet, or one that sends as another node's, or from outside into the overlay.
func (w *world) unknownSource(a arrival) fate {
	ip := ipv4Header(a.frame[etherLen:])
	ours := w.routeTo(ip.src()) == self
	theirs := w.routeTo(ip.src()) > self
	entersOverlay := w.routeTo(ip.dst()) > self
	if theirs || entersOverlay && !ours {
		return a.dropped(bpf.DatapathReasonDROP_CONTAINER_SOURCE)
	}
	return a.untouched(bpf.DatapathReasonPASS_UNKNOWN_SOURCE)
}

func (a arrival) dropped(reason bpf.DatapathReason) fate {
	f, ip := a.untouched(reason), ipv4Header(a.frame[etherLen:])
	f.src, f.dst = ip.src(), ip.dst()
	return f
}

func (w *world) peerOf(a arrival) (host, fate, bool) {
	index := w.routeTo(ipv4Header(a.frame[etherLen:]).dst())
	peer, found := w.hosts[index]
	switch {
	case index == self:
		return host{}, a.untouched(bpf.DatapathReasonPASS_LOCAL), false
	case !found:
		return host{}, a.untouched(bpf.DatapathReasonPASS_NO_ROUTE), false
	}
	return peer, fate{}, true
}

// tooBig is why a packet does not fit the way to the peer; 0 where it does.
func (peer host) tooBig(a arrival) bpf.DatapathReason {
	ip := ipv4Header(a.frame[etherLen:])
	size := ip.totalLen()
	if a.gsoSize != 0 && size > int(peer.mtu) {
		size = ipv4Len + transportLen(ip) + int(a.gsoSize) // of the largest segment
		if a.gsoSize == 0xffff && peer.encap != bpf.DatapathEncapENCAP_NONE {
			return bpf.DatapathReasonPASS_NOT_ENCAPSULABLE
		}
	}
	if size > int(peer.mtu) {
		return bpf.DatapathReasonPASS_TOO_BIG
	}
	return 0
}

// send puts the peer's outer header in front of a packet that fits.
func (w *world) send(a arrival, peer host) fate {
	if peer.encap == bpf.DatapathEncapENCAP_NONE {
		return a.untouched(bpf.DatapathReasonFORWARD_ROUTED)
	}
	ip := ipv4Header(a.frame[etherLen:])
	if a.gsoSize != 0 {
		return a.refused(bpf.DatapathReasonDROP_ENCAPSULATE)
	}
	return fate{
		reason: bpf.DatapathReasonFORWARD_ENCAPSULATED,
		frame:  join(a.frame[:etherLen], w.outer(peer, ip), ip),
	}
}

// refused is the fate of a superpacket in a test run, which gives the packet a gso_size but no
// gso_type: bpf_skb_adjust_room() takes that for a kind it cannot handle (net/core/filter.c).
func (a arrival) refused(reason bpf.DatapathReason) fate {
	f := a.dropped(reason)
	f.frame = nil
	return f
}

// transportLen is how much of a packet each of its segments repeats after the IP header.
func transportLen(ip ipv4Header) int {
	transport := ip[ipv4Len:]
	switch {
	case ip.isFragment():
		return 0
	case ip.hasOptions(): // not looked for: the longest there can be
		return 60 + 60 - ipv4Len
	case ip.protocol() == protocolTCP && len(transport) >= 13:
		return int(transport[12]>>4) * 4
	case ip.protocol() == protocolUDP && len(transport) >= udpLen:
		return udpLen
	case ip.protocol() == protocolSCTP && len(transport) >= udpLen:
		return udpLen
	}
	return 0
}

// outer is the header in front of ip on its way to peer: DESIGN section 6.
func (w *world) outer(peer host, ip ipv4Header) []byte {
	switch peer.encap {
	case bpf.DatapathEncapENCAP_VXLAN:
		eth := join(peer.vtep[:], w.overlay.mac[:], []byte{0x08, 0x00})
		vxlan := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, w.vni<<8)
		udp := udpHeader(0, w.vxlanPort, len(vxlan)+len(eth)+len(ip))
		return join(w.outerIPv4(peer, ip, protocolUDP, len(udp)+len(vxlan)+len(eth)), udp, vxlan, eth)
	case bpf.DatapathEncapENCAP_UDP:
		udp := udpHeader(w.udpPort, w.udpPort, len(ip))
		return join(w.outerIPv4(peer, ip, protocolUDP, len(udp)), udp)
	default:
		return w.outerIPv4(peer, ip, protocolIPIP, 0)
	}
}

// outerIPv4 is the outer IP header: RFC 2003, and RFC 6040 as INET_ECN_encapsulate() has it.
// between is how many bytes of other headers follow it.
func (w *world) outerIPv4(peer host, inner ipv4Header, protocol uint8, between int) []byte {
	h := make(ipv4Header, ipv4Len)
	h[0] = 0x45
	h[1] = peer.tos | encapsulatedECN(inner[1]&3)
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+between+len(inner)))
	if peer.df || peer.inheritDF && inner.dontFrag() {
		h[6] = 0x40
	}
	h[8] = peer.ttl
	if peer.ttl == 0 {
		h[8] = inner.ttl()
	}
	h[9] = protocol
	src, dst := w.node.As4(), peer.node.As4()
	copy(h[12:], src[:])
	copy(h[16:], dst[:])
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
