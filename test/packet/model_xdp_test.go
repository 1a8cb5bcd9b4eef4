// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// fromWire is the walk of a frame that nothing of the kernel has seen yet: what fromNetwork would drop
// it drops, what fromNetwork would take out of its tunnel it does; all else is left to fromNetwork.
func (w *world) fromWire(a arrival) fate {
	a.gsoSize = 0 // there are no superpackets yet
	eth, ip := ethernetHeader(a.frame), a.frame[etherLen:]
	switch {
	case w.ownFrame(eth):
		return a.untouched(bpf.DatapathReasonDROP_WIRE_MAC)
	case !eth.isIPv4():
		return a.untouched(bpf.DatapathReasonPASS_PROTOCOL)
	case eth.dst() != w.uplinkMAC:
		return a.untouched(bpf.DatapathReasonPASS_NOT_ROUTED)
	case !plausible(ip):
		return a.untouched(bpf.DatapathReasonPASS_MALFORMED)
	}
	outer := ipv4Header(ip)
	tunnelled := outer.protocol() == protocolUDP || outer.protocol() == protocolIPIP
	switch {
	case outer.dst() != w.node || !tunnelled:
		return a.untouched(bpf.DatapathReasonPASS_NOT_OURS)
	case outer.offset() != 0:
		return a.untouched(bpf.DatapathReasonPASS_OUTER_FRAGMENT)
	case outer.hasOptions() && !w.tunnelPort(outer):
		return a.untouched(bpf.DatapathReasonPASS_OPTIONS)
	case outer.hasOptions():
		return a.oddTunnel(outer)
	}
	t, reason, ours := w.recognise(a.frame)
	switch {
	case reason == bpf.DatapathReasonDROP_TUNNEL_MALFORMED:
		return a.oddTunnel(outer)
	case !ours:
		return a.untouched(reason)
	}
	f := w.decapsulate(a, t)
	f.checked = false // that mark is an skb's
	refused := f.reason >= bpf.DatapathReasonDROP_CONTAINER_SOURCE && f.reason != bpf.DatapathReasonDROP_ECN
	whole := f.reason != bpf.DatapathReasonPASS_INNER_NOT_ROUTED && f.reason != bpf.DatapathReasonPASS_OUTER_FRAGMENT &&
		f.reason != bpf.DatapathReasonPASS_UDP_CHECKSUM
	switch congested := f.reason == bpf.DatapathReasonDROP_ECN; {
	case refused || !whole:
	case w.spread > 0 && t.outer.protocol() == protocolIPIP:
		f.reason, f.frame = bpf.DatapathReasonFORWARD_SPREAD, a.frame
	case w.wireMAC == (topology.MAC{}), t.udpSum(ipv4Header(t.inner)) == sumPending: // the skb knows where it is to go
		f.reason, f.frame = bpf.DatapathReasonPASS_CHECKED, a.frame
	case !congested:
		f.reason, f.frame = bpf.DatapathReasonFORWARD_DECAPSULATED, w.unwrapped(t)
	}
	return f
}

// ownFrame says whether a frame has the address of fromWire's own.
func (w *world) ownFrame(eth ethernetHeader) bool {
	return w.wireMAC != topology.MAC{} && topology.MAC(eth[6:12]) == w.wireMAC
}

// unwrapped is the inner packet of a tunnel as fromWire leaves it to fromNetwork.
func (w *world) unwrapped(t tunnel) []byte {
	frame := join(w.uplinkMAC[:], w.wireMAC[:], []byte{8, 0}, t.rest)
	ip := ipv4Header(frame[etherLen:])
	if tos, _ := decapsulatedTOS(t.outer[1], ip[1]); tos != ip[1] {
		ip.change(func() { ip[1] = tos })
	}
	return frame
}

// deliverOwn is what fromNetwork does with what fromWire has left to it.
func (w *world) deliverOwn(a arrival) fate {
	if !plausible(a.frame[etherLen:]) {
		return a.untouched(bpf.DatapathReasonDROP_TUNNEL_MALFORMED)
	}
	frame := bytes.Clone(a.frame)
	ethernetHeader(frame).setSrc(w.uplinkMAC)
	ip := ipv4Header(frame[etherLen:])
	f := fate{reason: bpf.DatapathReasonFORWARD_DELIVERED}
	to, found := w.endpointAt(ip.dst())
	if found && ip.ttl() > 1 && !ip.hasOptions() {
		if _, natted := w.mayTranslate(ip); !natted {
			f.frame = routed(frame, to)
			return f
		}
	}
	ethernetHeader(frame).setDst(w.overlay.mac)
	f.reason, f.frame, f.checked = bpf.DatapathReasonFORWARD_TO_HOST, frame, true
	return f
}
