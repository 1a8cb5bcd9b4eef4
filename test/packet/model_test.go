// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// The model: what has to become of a packet of either IP version, in the simplest Go that says it.
// It is written from DESIGN sections 2, 5 and 6, docs/ARCHITECTURE.md, RFCs 768, 791, 2003, 4291, 6040, 7348
// and 8200, and what the kernel's tunnels do, not from the C.

// arrival is a packet as a program gets it.
type arrival struct {
	frame   []byte
	ifindex uint32 // where it came in; from_host: where it goes out
	gsoSize uint16 // of a superpacket's segments, bytes; 0: no superpacket
	mark    uint32 // skb->mark
}

// fate is what has to become of a packet.
type fate struct {
	reason bpf.DatapathReason
	// frame is what leaves the program. IP ID, flow label, entropy source port and checksum of a pushed header
	// are zero in it. Nil where the reason is a failure in the middle of changing it.
	frame []byte
	// checked is whether the packet leaves marked as one whose sender has been checked.
	checked bool
	// What the event tells of a drop: the innermost addresses read, and the outer source.
	outer, src, dst netip.Addr
}

// onward is no reason yet: nothing has ended the walk.
const onward = bpf.DatapathReason(0xff)

// models has for each program the function that says what it has to do.
var models = map[bpf.DatapathProgram]func(*world, arrival) fate{
	bpf.DatapathProgramPROGRAM_FROM_CONTAINER: (*world).fromContainer,
	bpf.DatapathProgramPROGRAM_FROM_NETWORK:   (*world).fromNetwork,
	bpf.DatapathProgramPROGRAM_FROM_HOST:      (*world).fromHost,
	bpf.DatapathProgramPROGRAM_FROM_OVERLAY:   (*world).fromOverlay,
	bpf.DatapathProgramPROGRAM_FROM_VETH:      (*world).fromVeth,
	bpf.DatapathProgramPROGRAM_FROM_WIRE:      (*world).fromWire,
}

// untouched is the fate of what is passed, or dropped before the first change.
func (a arrival) untouched(reason bpf.DatapathReason) fate {
	return fate{reason: reason, frame: a.frame}
}

// dropped is the fate of a plain packet that must not go on.
func (a arrival) dropped(reason bpf.DatapathReason) fate {
	f, ip := a.untouched(reason), ipHeader(a.frame[etherLen:])
	f.src, f.dst = ip.src(), ip.dst()
	return f
}

// versionOf is that of a frame, if something uses it.
func (w *world) versionOf(eth ethernetHeader) version {
	switch kind := eth.etherType(); {
	case kind == ipv4.etherType():
		return ipv4
	case kind == ipv6.etherType() && w.useIPv6:
		return ipv6
	}
	return 0
}

// routeTo is the host of the longest prefix of this network that covers addr, or 0.
func (w *world) routeTo(addr netip.Addr) uint32 {
	longest, to := -1, uint32(0)
	for i := range w.routes {
		r := &w.routes[i]
		if r.network == w.network && r.prefix.Contains(addr) && r.prefix.Bits() > longest {
			longest, to = r.prefix.Bits(), r.host
		}
	}
	return to
}

// peerBehind is the other node whose subnet has addr.
func (w *world) peerBehind(addr netip.Addr) (host, bool) {
	index := w.routeTo(addr)
	if index == self {
		return host{}, false
	}
	peer, found := w.hosts[index]
	return peer, found
}

func (w *world) endpointAt(addr netip.Addr) (endpoint, bool) {
	for i := range w.endpoints {
		if e := &w.endpoints[i]; e.network == w.network && e.addr == addr {
			return *e, true
		}
	}
	return endpoint{}, false
}

// isNode says whether addr is another node.
func (w *world) isNode(addr netip.Addr) bool {
	for index, h := range w.hosts {
		if index != self && h.node == addr {
			return true
		}
	}
	return false
}

// nodeOf is this node's address of that version; invalid where it has none.
func (w *world) nodeOf(v version) netip.Addr {
	if v == ipv6 {
		return w.node6
	}
	return w.node
}

// overlayOf is the device for what comes out of tunnels of that version.
func (w *world) overlayOf(v version) link {
	if v == ipv6 {
		return w.overlay6
	}
	return w.overlay
}
