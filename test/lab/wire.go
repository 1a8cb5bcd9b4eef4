// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
)

// Wire is the namespace that holds the underlay: a bridge "segN" for each
// segment, with a port named after each host. It routes between the segments.
func (l *Lab) Wire() Namespace { return Namespace(namespaceName(l.Options.Name, "wire")) }

func segmentName(n int) string { return fmt.Sprintf("seg%d", n) }

func (l *Lab) createWire() error {
	l.progress("underlay: %s, MTU %d", l.Options.Underlay, l.Options.MTU)
	if err := l.Wire().create(l.Options.hasIPv6()); err != nil {
		return err
	}
	return l.Wire().Do(func() error {
		if err := setSysctls("1", "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"); err != nil {
			return err
		}
		// Redirects would tell hosts of ways that the lab does not mean them to take.
		return setSysctls("0", "net/ipv4/conf/all/send_redirects", "net/ipv4/conf/default/send_redirects")
	})
}

// connect gives a host its uplink, and its segment if it is the first there.
func (l *Lab) connect(h *Host) error {
	segment := segmentName(h.Segment)
	first := !slices.ContainsFunc(l.Hosts, func(o *Host) bool { return o != h && o.Segment == h.Segment })
	return l.Wire().configure(func(w *links) {
		if first {
			w.remove(segment) // left by a host that was the only one
			w.bridge(segment, l.Options.MTU)
			if l.Options.Outer.v4() {
				w.address(segment, segmentAddr(h.Segment, 1))
			}
			if l.Options.Outer.v6() {
				w.address(segment, segmentAddr6(h.Segment, 1))
			}
		}
		w.veth(veth{name: h.Name, peer: Uplink, peerNS: h.NS, mtu: l.Options.MTU, bridge: segment})
	})
}

func (l *Lab) disconnect(h *Host) error {
	return l.Wire().configure(func(w *links) { w.remove(h.Name) })
}
