// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

const templateFirst = 1 // 0 is none

// Where in an outer header stands what a template leaves out.
const (
	atChecksum = 10 // RFC 791
	atDst      = 16
	atVTEP     = ipv4Len + udpLen + 8 // behind VXLAN's header: the inner frame's destination
)

// split divides a host entry into what it has alone and the rest. ok is false
// where that cannot be: a slot of route_index has no room for an IPv6 address.
func split(h maps.Host) (template maps.Host, own maps.Shortcut, ok bool) {
	if !h.Node.Is4() {
		return h, own, false
	}
	own.Node = h.Node
	h.Node = netip.Addr{}
	if h.NextHop == own.Node {
		h.NextHop = netip.Addr{}
	}
	if h.HeaderLen > 0 {
		clear(h.Header[atDst:ipv4Len])
		clear(h.Header[atChecksum : atChecksum+2])
		binary.BigEndian.PutUint16(h.Header[atChecksum:], internetSum(h.Header[:ipv4Len]))
	}
	if h.Encap == bpf.DatapathEncapENCAP_VXLAN {
		own.VTEP = maps.MAC(h.Header[atVTEP:])
		clear(h.Header[atVTEP : atVTEP+len(own.VTEP)])
	}
	return h, own, true
}

// shortcut is what the slot of a host's route has, its template written before.
// Without one, for there are as many as there may be, packets go by the entry of hosts.
func (d *Dataplane) shortcut(host uint32) maps.Shortcut {
	template, own, ok := split(d.hosts.entries[host])
	if !ok || host == hostSelf {
		return maps.Shortcut{}
	}
	index, err := d.templates.index(template)
	if err != nil {
		return maps.Shortcut{Node: own.Node}
	}
	own.Template = uint8(index)
	return own
}

// usedTemplates is those that a host has, of those named.
func (d *Dataplane) usedTemplates(had entries) map[uint32]bool {
	if len(had.templates) == 0 {
		return nil
	}
	used := map[uint32]bool{}
	for _, h := range d.hosts.entries {
		if template, _, ok := split(h); ok {
			used[d.templates.indexes[template]] = true
		}
	}
	return used
}
