// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
)

// ported is a datagram of a flow.
func (f flow) ported() datagram {
	d := datagram{src: f.src.Addr(), dst: f.dst.Addr()}
	if f.protocol == protocolTCP {
		d.transport = &layers.TCP{SrcPort: layers.TCPPort(f.src.Port()), DstPort: layers.TCPPort(f.dst.Port()), ACK: true}
	} else {
		d.transport = &layers.UDP{SrcPort: layers.UDPPort(f.src.Port()), DstPort: layers.UDPPort(f.dst.Port())}
	}
	return d
}

func (f flow) String() string {
	protocol := "UDP "
	if f.protocol == protocolTCP {
		protocol = "TCP "
	}
	return protocol + f.src.String() + " to " + f.dst.String()
}

// neighbours are flows that differ from f in one thing each.
func (f flow) neighbours() map[string]flow {
	next := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+10) }
	protocol := f
	protocol.protocol = protocolTCP + protocolUDP - f.protocol
	src, dst := f, f
	src.src, dst.dst = next(f.src), next(f.dst)
	return map[string]flow{"source port": src, "destination port": dst, "protocol": protocol}
}

// untellable are packets of which conntrack cannot be asked.
func untellable(src, dst netip.Addr) map[string]datagram {
	icmp := func(kind uint8) gopacket.SerializableLayer {
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0)}
	}
	return map[string]datagram{
		"first fragment":       {src: src, dst: dst, flags: layers.IPv4MoreFragments},
		"later fragment":       {src: src, dst: dst, offset: 9},
		"ICMP echo":            {src: src, dst: dst, transport: icmp(layers.ICMPv4TypeEchoRequest)},
		"ICMP error":           {src: src, dst: dst, transport: icmp(layers.ICMPv4TypeDestinationUnreachable)},
		"SCTP":                 {src: src, dst: dst, transport: &layers.SCTP{SrcPort: 40000, DstPort: 53}},
		"too short for a port": {src: src, dst: dst, transport: gopacket.Payload{1, 2, 3}, payload: []byte{}},
	}
}

// containerNAT: what a container sends on a node that translates connections.
func containerNAT() []packetCase {
	var cases []packetCase
	add := func(name string, w *world, in arrival, reason bpf.DatapathReason, out []byte) {
		cases = append(cases, packetCase{name: w.name + "/" + name, world: w, in: in, reason: reason, out: out})
	}
	for _, c := range connections {
		if answer := c.answer(); answer.src.Addr() == c1 {
			in := fromC1(answer.ported())
			add("to remote/"+answer.String(), natted, in, bpf.DatapathReasonPASS_NAT, nil)
			add("to remote/"+answer.String(), untold, in, bpf.DatapathReasonPASS_NAT_UNKNOWN, nil)
			add("to remote/"+answer.String(), blind, in, bpf.DatapathReasonPASS_NAT_UNKNOWN, nil)
		}
	}
	answer := flow{protocolUDP, netip.AddrPortFrom(c1, 53), netip.AddrPortFrom(remote2, 40000)}
	for what, f := range answer.neighbours() {
		in := fromC1(f.ported())
		if translations[f] {
			continue // both protocols are translated alike
		}
		add("to remote/other "+what, natted, in, sentReason(node2), sent(in.frame, node2, f.ported().hop(1).bytes()))
	}
	for _, c := range connections {
		if !c.translated() && c.first.src.Addr() == c1 && c.to.Addr() == remote2 {
			in := fromC1(c.first.ported())
			add("to remote/tracked, not translated/"+c.first.String(), natted, in, sentReason(node2),
				sent(in.frame, node2, c.first.ported().hop(1).bytes()))
		}
	}
	for what, d := range untellable(c1, remote2) {
		add("to remote/"+what, natted, fromC1(d), bpf.DatapathReasonPASS_NAT_UNKNOWN, nil)
	}
	fromC2 := func(dst [6]byte, d datagram) arrival {
		return arrival{frame: ethernet(dst, c2MAC, d.bytes()), ifindex: link2.ifindex}
	}
	for _, protocol := range []uint8{protocolUDP, protocolTCP} {
		local := flow{protocol, netip.AddrPortFrom(c2, 53), netip.AddrPortFrom(c1, 40000)}
		add("local, bridged/"+local.String(), natted, fromC2(c1MAC, local.ported()), bpf.DatapathReasonPASS_NAT, nil)
		add("local, routed/"+local.String(), natted, fromC2(bridgeMAC, local.ported()), bpf.DatapathReasonPASS_NAT, nil)
		other := local.neighbours()["source port"]
		add("local, bridged/"+other.String(), natted, fromC2(c1MAC, other.ported()), bpf.DatapathReasonFORWARD_LOCAL, nil)
		add("local, routed/"+other.String(), natted, fromC2(bridgeMAC, other.ported()), bpf.DatapathReasonFORWARD_LOCAL,
			ethernet(c1MAC, bridgeMAC, other.ported().hop(1).bytes()))
	}
	d := datagram{src: c1, dst: remote2}
	add("before: no route", blind, fromC1(datagram{src: c1, dst: internet}), bpf.DatapathReasonPASS_NO_ROUTE, nil)
	add("before: TTL", blind, fromC1(d.withTTL(1)), bpf.DatapathReasonPASS_TTL, nil)
	add("before: too big", blind, fromC1(d.sized(1451)), bpf.DatapathReasonPASS_NAT_UNKNOWN, nil)
	return cases
}

// networkNAT: what comes for a container of a node that translates connections. Out of VXLAN the
// kernel's device takes it, out of other tunnels the stack gets it from us.
func networkNAT() []packetCase {
	var cases []packetCase
	add := func(w *world, name string, node netip.Addr, d datagram, reason bpf.DatapathReason) {
		c := packetCase{name: w.name + "/" + name, world: w, in: arrives(d.bytes()), reason: reason}
		if node != node5 {
			c.in = arrives(from(node, d.bytes()).bytes())
		}
		switch {
		case reason == bpf.DatapathReasonFORWARD_DELIVERED:
			c.out = intoC1(d.hop(1).bytes())
		case node == node3 || node == node4:
			c.reason, c.out = bpf.DatapathReasonFORWARD_TO_HOST, intoStack(d.bytes())
		}
		cases = append(cases, c)
	}
	nodes := map[netip.Addr]netip.Addr{remote2: node2, remote3: node3, remote4: node4, remote5: node5}
	for _, c := range connections {
		answer := c.answer()
		node := nodes[answer.src.Addr()]
		switch {
		case !node.IsValid():
		case !c.translated():
			add(natted, answer.String(), node, answer.ported(), bpf.DatapathReasonFORWARD_DELIVERED)
		default:
			add(natted, answer.String(), node, answer.ported(), bpf.DatapathReasonPASS_NAT)
			add(blind, answer.String(), node, answer.ported(), bpf.DatapathReasonPASS_NAT_UNKNOWN)
			add(untold, answer.String(), node, answer.ported(), bpf.DatapathReasonPASS_NAT_UNKNOWN)
			for what, f := range answer.neighbours() {
				if !translations[f] {
					add(natted, answer.String()+"/other "+what, node, f.ported(), bpf.DatapathReasonFORWARD_DELIVERED)
				}
			}
		}
	}
	for remote, node := range nodes {
		for what, d := range untellable(remote, c1) {
			add(natted, what+" from "+remote.String(), node, d, bpf.DatapathReasonPASS_NAT_UNKNOWN)
		}
	}
	return cases
}
