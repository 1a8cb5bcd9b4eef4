// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// checkWire holds every packet on the wire and every one that arrived to what they have to be.
func (r *row) checkWire(t *testing.T) {
	t.Helper()
	for _, back := range []bool{false, true} {
		for i := range r.Hosts {
			for _, p := range []place{sent(i), arrived(i)} {
				if err := r.checkOnWire(r.at(p, back), i, p(r.matrix, r.family).outgoing); err != nil {
					t.Errorf("%v, back %v: %v", p(r.matrix, r.family), back, err)
				}
			}
		}
	}
	last := r.way.there.last
	for _, s := range r.at(last, false) {
		if len(s.IP) > 1 || last(r.matrix, r.family) == arrived(1)(r.matrix, r.family) {
			break // on the wire
		}
		if err := r.checkArrived(s, last(r.matrix, r.family)); err != nil {
			t.Errorf("arrived: %v: %q", err, describe(s.Packet))
			return
		}
	}
}

// checkOnWire looks at what passes the uplink of a host.
func (r *row) checkOnWire(packets []seen, host int, outgoing bool) error {
	sender := host
	if !outgoing {
		sender = 1 - host
	}
	ports := map[bool]map[layers.UDPPort]bool{true: {}, false: {}}
	for _, s := range packets {
		if err := lab.VerifyChecksums(finished(s.Packet)); err != nil && !r.kind.wrong() {
			return fmt.Errorf("%w: %q", err, describe(s.Packet))
		}
		if want, got := r.wantOuter(sender, s), outerOf(s); want != got {
			return fmt.Errorf("outer header (-want +got):\n%s\n%q", cmp.Diff(want, got), describe(s.Packet))
		}
		if !s.back && r.way.wire >= 0 {
			if want := r.kind.sentTTL() - uint8(r.way.wire); s.inner.TTL != want {
				return fmt.Errorf("TTL %d on the wire, want %d: %q", s.inner.TTL, want, describe(s.Packet))
			}
		}
		if outgoing && r.offload.without(uplinks) && (s.GSOSize > 0 || s.Partial || s.Len > 14+r.Options.MTU) {
			return fmt.Errorf("left uncut or unfinished: %q", describe(s.Packet))
		}
		if len(s.VXLAN) > 0 {
			ports[s.inner.IsFragment()][s.UDP[0].SrcPort] = true
		}
	}
	// A flow's packets share a path, and so do its fragments, of which one alone has the ports. (The
	// kernel's device takes the hash that the sender's socket gave its packets, which changes.)
	kernelSent := r.sums(sender) && len(r.at(kernels(sender), false))+len(r.at(kernels(sender), true)) > 0
	if r.dataplanes[sender] == node.EBPF && !kernelSent && (len(ports[true]) > 1 || len(ports[false]) > 1) {
		return fmt.Errorf("source ports %v", ports)
	}
	return nil
}

// checkArrived looks at what has reached the receiver.
func (r *row) checkArrived(s seen, at point) error {
	frame := s.Ethernet[0]
	if at.ns == r.Hosts[1].NS { // by the overlay device: who sent it there is nobody's concern
		frame.SrcMAC = nil
	}
	if want, got := r.lastHop(at), ethernetLine(frame); want != got {
		return fmt.Errorf("frame %s, want %s", got, want)
	}
	if want := r.kind.sentTTL() - uint8(r.way.hops); s.inner.TTL != want {
		return fmt.Errorf("TTL %d, want %d", s.inner.TTL, want)
	}
	want := r.kind.tos
	if s.inner.Protocol == layers.IPProtocolTCP && s.inner.TOS&3 == 0 {
		want &^= 3 // not all of a stream is of an ECN transport (RFC 3168, 6.1)
	}
	if s.inner.TOS != want {
		return fmt.Errorf("TOS %#x, want %#x", s.inner.TOS, want)
	}
	if r.kind.wrong() {
		return nil
	}
	return lab.VerifyChecksums(s.Packet)
}

// lastHop is the frame that a packet arrives in: from who routed it last, or from its sender.
func (r *row) lastHop(at point) string {
	h2 := r.Hosts[1]
	from := iface{h2.NS, h2.Bridge}
	switch {
	case at.ns == h2.NS:
		from = iface{}
	case at.ns == r.behind.NS:
		from = iface{h2.Containers[1].NS, r.behind.Veth}
	case r.way.wire < 0:
		from = iface{r.from.ns, "eth0"}
	case slices.ContainsFunc(r.Hosts[0].Containers, func(c *lab.Container) bool { return c.NS == at.ns }):
		from = iface{r.Hosts[0].NS, r.Hosts[0].Bridge}
	}
	return fmt.Sprintf("%s > %s %v", r.macs[from], r.macs[iface{at.ns, at.iface}], ethertypes[r.family])
}

// outer is what is around an inner packet.
type outer struct {
	Frame, Inner string // Ethernet headers
	Src, Dst     string
	TTL, TOS     uint8
	DF           bool
	Protocol     layers.IPProtocol
	Length       int
	FlowLabel    bool // that there is one
	Options      int
	UDPSource    string // "flow" is of RFC 7348's range
	UDPPort      int
	UDPLength    int
	UDPChecksum  bool
	VXLAN        string
}

func ethernetLine(e *layers.Ethernet) string {
	return fmt.Sprintf("%s > %s %v", e.SrcMAC, e.DstMAC, e.EthernetType)
}

// outerOf is what a packet has around its inner one.
func outerOf(s seen) (o outer) {
	o.Frame = ethernetLine(s.Ethernet[0])
	if len(s.IP) < 2 {
		return o
	}
	ip := s.IP[0]
	o.Src, o.Dst, o.TTL, o.TOS, o.DF, o.Protocol = ip.Src.String(), ip.Dst.String(), ip.TTL, ip.TOS, ip.DF, ip.Protocol
	o.Length, o.FlowLabel, o.Options = ip.Length, ip.FlowLabel != 0, ip.Options
	if ip.Protocol == layers.IPProtocolUDP {
		u := s.UDP[0]
		o.UDPSource, o.UDPPort, o.UDPLength, o.UDPChecksum = fmt.Sprint(uint16(u.SrcPort)), int(u.DstPort), int(u.Length), u.Checksum != 0
		if u.DstPort == 8472 && u.SrcPort >= firstDynamicPort {
			o.UDPSource = "flow"
		}
	}
	if len(s.VXLAN) > 0 {
		o.VXLAN, o.Inner = fmt.Sprintf("%x", s.VXLAN[0].Contents), ethernetLine(s.Ethernet[1])
	}
	return o
}

// protocols are those of IP in IP (RFC 2003, 2473 and 4213).
var protocols = map[lab.Families]layers.IPProtocol{lab.V4: layers.IPProtocolIPv4, lab.V6: layers.IPProtocolIPv6}

// ethertypes are those of the families.
var ethertypes = map[lab.Families]layers.EthernetType{lab.V4: layers.EthernetTypeIPv4, lab.V6: layers.EthernetTypeIPv6}

// wantOuter is what the kernel's tunnels put around a packet that one host sends to the other.
func (r *row) wantOuter(sender int, s seen) outer {
	from, to := r.Hosts[sender], r.Hosts[1-sender]
	mac := func(name string, f lab.Families) string {
		return fmt.Sprintf("%s > %s %v", r.macs[iface{from.NS, name}], r.macs[iface{to.NS, name}], ethertypes[f])
	}
	if r.backend == topology.EncapNone {
		return outer{Frame: mac(lab.Uplink, r.family)}
	}
	family := r.Options.OuterOf(r.family)
	o := outer{Frame: mac(lab.Uplink, family)}
	o.Src, o.Dst = from.Node(family).String(), to.Node(family).String()
	o.Length = s.Len - 14
	o.TTL, o.TOS = 64, ecnAround[s.inner.TOS&3]
	switch r.backend {
	case topology.EncapVXLAN:
		o.Inner = mac(r.device(sender, r.family), r.family)
		o.VXLAN = "0800000000000100" // I flag, VNI 1
		o.Protocol, o.UDPSource, o.UDPPort = layers.IPProtocolUDP, "flow", 8472
	case topology.EncapIPIP:
		o.Protocol, o.TTL = protocols[r.family], s.inner.TTL
		o.DF = family == lab.V4 && (s.inner.DF || s.inner.Version == 6) // nobody cuts IPv6 (net/ipv6/sit.c)
		o.FlowLabel = family == lab.V6
	case topology.EncapUDP:
		o.Protocol, o.DF, o.UDPSource, o.UDPPort = layers.IPProtocolUDP, true, "8285", 8285
	}
	if o.Protocol == layers.IPProtocolUDP {
		o.UDPLength, o.UDPChecksum = o.Length-20, r.mode(sender).outerChecksum()
		if family == lab.V6 { // RFC 8200, 8.1
			o.UDPLength, o.UDPChecksum = o.Length-40, o.UDPChecksum || r.sums(sender)
		}
	}
	return o
}

// ecnAround is the outer ECN field of each inner one: INET_ECN_encapsulate() of include/net/inet_ecn.h.
var ecnAround = [4]uint8{0, 1, 2, 2}
