// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

// fromNetwork is the walk of what the uplink receives.
func (w *world) fromNetwork(a arrival) fate {
	eth, ip := ethernetHeader(a.frame), a.frame[etherLen:]
	v, toUs := w.versionOf(eth), eth.dst() == linkAt(a.ifindex).mac
	switch {
	case w.ownFrame(eth):
		return w.deliverOwn(a, max(v, ipv4))
	case v == 0:
		return a.untouched(bpf.DatapathReasonPASS_PROTOCOL)
	case !toUs && !eth.isGroup(): // PACKET_OTHERHOST, to the kernel
		return a.untouched(bpf.DatapathReasonPASS_NOT_ROUTED)
	case !plausible(v, ip):
		return a.untouched(bpf.DatapathReasonPASS_MALFORMED)
	}
	t, reason := w.recognise(ip)
	switch {
	case reason == bpf.DatapathReasonPASS_NOT_OURS:
		return w.plain(a, toUs)
	case reason == onward && !toUs:
		reason = bpf.DatapathReasonDROP_TUNNEL_MALFORMED
	}
	if reason != onward {
		f := a.untouched(reason)
		f.outer = t.outer.src()
		return f
	}
	return w.decapsulate(a, t)
}

// markChecked is what the programs ask for.
const markChecked = maps.MarkChecked

// fromOverlay is the walk of what comes out of an overlay device: only what fromNetwork has checked goes on.
func (*world) fromOverlay(a arrival) fate {
	if a.mark&markChecked != markChecked {
		return a.untouched(bpf.DatapathReasonDROP_UNCHECKED)
	}
	return a.untouched(bpf.DatapathReasonPASS_CHECKED)
}

// decapsulate is the fate of a tunnel packet of ours at tc.
func (w *world) decapsulate(a arrival, t tunnel) fate {
	f := w.verify(a, t)
	if f.reason != onward {
		f.checked = f.reason < bpf.DatapathReasonDROP_CONTAINER_SOURCE
		return f
	}
	inner := ipHeader(t.rest)
	tos, congested := decapsulatedTOS(t.outer.tos(), inner.tos())
	superUDP := a.gsoSize != 0 && t.udp != nil && inner.protocol() == protocolUDP
	to, found := w.receiver(inner)
	natReason, natted := w.mayTranslate(inner)
	natted = natted && found
	switch {
	case superUDP && t.frame != nil:
		f.reason, f.checked = bpf.DatapathReasonPASS_UDP_SUPERPACKET, true
	case superUDP:
		f.reason = bpf.DatapathReasonDROP_DECAPSULATE
	case congested:
		f.reason = bpf.DatapathReasonDROP_ECN
	case natted && t.frame != nil:
		f.reason, f.checked = natReason, true
	case a.gsoSize != 0:
		f.reason, f.frame = bpf.DatapathReasonDROP_DECAPSULATE, nil // as unsendable() says
	case found && !natted:
		f.reason, f.frame = bpf.DatapathReasonFORWARD_DELIVERED, routed(t.unwrapped(a.frame, tos), to)
	default: // the stack answers, reads options, translates, or knows where it goes
		f.reason, f.frame, f.checked = bpf.DatapathReasonFORWARD_TO_HOST, t.unwrapped(a.frame, tos), true
		ethernetHeader(f.frame).setDst(w.overlayOf(t.outer.version()).mac)
	}
	return f
}

// receiver is the container that gets a packet without the stack having a say.
func (w *world) receiver(ip ipHeader) (endpoint, bool) {
	to, found := w.endpointAt(ip.dst())
	return to, found && ip.ttl() > 1 && !ip.hasOptions()
}

// unwrapped is the frame with the inner packet in the outer one's place.
func (t tunnel) unwrapped(frame []byte, tos uint8) []byte {
	frame = join(frame[:etherLen], t.rest)
	ethernetHeader(frame).setEtherType(t.version.etherType())
	if ip := ipHeader(frame[etherLen:]); ip.tos() != tos {
		ip.setTOS(tos)
	}
	return frame
}

// plain is a packet out of no tunnel of ours. By this way none comes from our own subnet to it, and one from another
// node's only where some nodes send without a tunnel.
func (w *world) plain(a arrival, toUs bool) fate {
	ip := ipHeader(a.frame[etherLen:])
	from, inbound := w.routeTo(ip.src()), ip.dst() != w.nodeOf(ip.version()) && w.routeTo(ip.dst()) == self
	if inbound && (from == self || from > self && !w.direct) {
		return a.dropped(bpf.DatapathReasonDROP_SPOOFED_SOURCE)
	}
	to, found := w.receiver(ip)
	peer, known := w.peerBehind(ip.src())
	adjacent := known && peer.encap == bpf.DatapathEncapENCAP_NONE
	if !w.direct || !inbound || !toUs || !found || !adjacent {
		return a.untouched(bpf.DatapathReasonPASS_NOT_OURS)
	}
	if reason, natted := w.mayTranslate(ip); natted {
		return a.untouched(reason)
	}
	return fate{reason: bpf.DatapathReasonFORWARD_DELIVERED, frame: routed(bytes.Clone(a.frame), to)}
}

// routed changes a frame as one hop into a container does.
func routed(frame []byte, to endpoint) []byte {
	eth := ethernetHeader(frame)
	eth.setDst(to.mac)
	eth.setSrc(to.gateway)
	ipHeader(frame[etherLen:]).hop()
	return frame
}
