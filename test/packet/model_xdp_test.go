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
	v := w.versionOf(eth)
	switch {
	case w.ownFrame(eth):
		return a.untouched(bpf.DatapathReasonDROP_WIRE_MAC)
	case v == 0:
		return a.untouched(bpf.DatapathReasonPASS_PROTOCOL)
	case eth.dst() != w.uplinkMAC:
		return a.untouched(bpf.DatapathReasonPASS_NOT_ROUTED)
	case !plausible(v, ip):
		return a.untouched(bpf.DatapathReasonPASS_MALFORMED)
	}
	t, reason := w.recognise(ip)
	if reason != onward {
		f := a.untouched(reason)
		f.outer = t.outer.src()
		return f
	}
	f := w.verify(a, t)
	if f.reason != onward {
		return f
	}
	tos, congested := decapsulatedTOS(t.outer.tos(), ipHeader(t.inner).tos())
	switch {
	case t.udpSum(ipHeader(t.inner)) == sumPartial: // the skb will know where the rest has to go
		f.reason = bpf.DatapathReasonPASS_CHECKED
	case w.spread > 0 && t.udp == nil:
		f.reason = bpf.DatapathReasonFORWARD_SPREAD
	case w.wireMAC == (topology.MAC{}):
		f.reason = bpf.DatapathReasonPASS_CHECKED
	case congested:
		f.reason = bpf.DatapathReasonDROP_ECN
	default:
		f.reason, f.frame = bpf.DatapathReasonFORWARD_DECAPSULATED, t.unwrapped(a.frame, tos)
		ethernetHeader(f.frame).setDst(w.uplinkMAC)
		ethernetHeader(f.frame).setSrc(w.wireMAC)
	}
	return f
}

// ownFrame says whether a frame has the address of fromWire's own.
func (w *world) ownFrame(eth ethernetHeader) bool {
	return w.wireMAC != topology.MAC{} && eth.src() == w.wireMAC
}

// deliverOwn is what fromNetwork does with what fromWire has left to it: one tunnel is taken off a packet, not two.
func (w *world) deliverOwn(a arrival, v version) fate {
	if !plausible(v, a.frame[etherLen:]) {
		return a.untouched(bpf.DatapathReasonDROP_TUNNEL_MALFORMED)
	}
	f := fate{reason: bpf.DatapathReasonFORWARD_DELIVERED, frame: bytes.Clone(a.frame)}
	ethernetHeader(f.frame).setSrc(w.uplinkMAC)
	ip := ipHeader(f.frame[etherLen:])
	if to, found := w.receiver(ip); found {
		if _, natted := w.mayTranslate(ip); !natted {
			routed(f.frame, to)
			return f
		}
	}
	ethernetHeader(f.frame).setDst(w.overlayOf(v).mac)
	f.reason, f.checked = bpf.DatapathReasonFORWARD_TO_HOST, true
	return f
}
