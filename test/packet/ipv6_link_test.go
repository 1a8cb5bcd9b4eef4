// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
)

// ICMPv6 types: RFC 4861 (neighbour discovery), RFC 3810 (MLDv2), RFC 4443.
const (
	icmpRouterSolicitation   = 133
	icmpNeighborSolicitation = 135
	icmpNeighborAdvert       = 136
	icmpRedirect             = 137
	icmpMLDReport            = 143
	icmpEchoRequest          = 128
)

// icmpV6 is a message of that type, checksum and all.
func icmpV6(src, dst netip.Addr, kind layers.ICMPv6TypeCode, hops uint8) []byte {
	p := packetV6{src: src, dst: dst, hops: hops, next: protocolICMPv6}
	body := join([]byte{kind.Type(), kind.Code(), 0, 0, 0, 0, 0, 0}, dst.AsSlice())
	sum := ^internetSum(join(src.AsSlice(), dst.AsSlice(), []byte{0, protocolICMPv6, 0, byte(len(body))}, body))
	body[2], body[3] = byte(sum>>8), byte(sum)
	p.payload = body
	return p.bytes()
}

// linkScope are packets that no router sends on, each whole.
func linkScope(src, dst netip.Addr) map[string][]byte {
	solicited := netip.MustParseAddr("ff02::1:ff00:2")
	report := icmpV6(linkLocalV6, allMLDv2, icmpMLDReport<<8, 1)
	routerAlert := []byte{protocolICMPv6, 0, 5, 2, 0, 0, 1, 0} // RFC 2711
	all := map[string][]byte{
		"router solicitation":            icmpV6(linkLocalV6, netip.MustParseAddr("ff02::2"), icmpRouterSolicitation<<8, 255),
		"solicitation":                   icmpV6(src, solicited, icmpNeighborSolicitation<<8, 255),
		"duplicate address detection":    icmpV6(unspecified, solicited, icmpNeighborSolicitation<<8, 255),
		"unicast solicitation":           icmpV6(src, dst, icmpNeighborSolicitation<<8, 255),
		"advertisement":                  icmpV6(src, dst, icmpNeighborAdvert<<8, 255),
		"redirect":                       icmpV6(src, dst, icmpRedirect<<8, 255),
		"MLD report":                     packetV6{src: linkLocalV6, dst: allMLDv2, hops: 1, payload: join(routerAlert, report[ipv6Len:])}.bytes(),
		"MLD report, no source yet":      packetV6{src: unspecified, dst: allMLDv2, hops: 1, payload: join(routerAlert, report[ipv6Len:])}.bytes(),
		"from a link-local address":      packetV6{src: linkLocalV6, dst: dst}.bytes(),
		"to a link-local address":        packetV6{src: src, dst: linkLocalV6}.bytes(),
		"to the last link-local address": packetV6{src: src, dst: netip.MustParseAddr("febf:ffff::1")}.bytes(),
		"mDNS":                           packetV6{src: src, dst: netip.MustParseAddr("ff02::fb")}.bytes(),
		"multicast of a wide scope":      packetV6{src: src, dst: netip.MustParseAddr("ff0e::1234")}.bytes(),
	}
	return all
}

// TestIPv6LinkScope: what concerns one link is the kernel's, as it is.
func TestIPv6LinkScope(t *testing.T) {
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4, directV6} {
		t.Run(tun.name, func(t *testing.T) {
			var cases []caseV6
			for name, ip := range linkScope(containerV6, remoteV6) {
				cases = append(cases, caseV6{
					name: "container, " + name, program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER,
					in: fromContainerV6(ip), reason: bpf.DatapathReasonPASS_LINK_SCOPE,
				}, caseV6{
					name: "node, " + name, program: bpf.DatapathProgramPROGRAM_FROM_HOST,
					in:     arrival{frame: etherType(vtep2, overlay.mac, 0x86dd, ip), ifindex: overlay.ifindex},
					reason: bpf.DatapathReasonPASS_LINK_SCOPE,
				})
			}
			for name, ip := range linkScope(peerV6, nodeV6) {
				cases = append(cases, caseV6{
					name: "network, " + name, program: bpf.DatapathProgramPROGRAM_FROM_NETWORK,
					in: tun.arrives(ip), reason: bpf.DatapathReasonPASS_NOT_OURS,
				})
			}
			// What only looks like it is routed as any other.
			m := tun.machine(t)
			m.checkAllV6(t, cases)
			for _, dst := range []string{"fec0::1", "fe40::1", "fe00::1"} {
				m.checkV6(t, caseV6{
					program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER, reason: bpf.DatapathReasonPASS_NO_ROUTE,
					in: fromContainerV6(packetV6{src: containerV6, dst: netip.MustParseAddr(dst)}.bytes()),
				})
			}
		})
	}
}

// TestIPv6EchoIsRouted: ICMPv6 that is not neighbour discovery goes its way.
func TestIPv6EchoIsRouted(t *testing.T) {
	m := directV6.machine(t)
	for _, kind := range []layers.ICMPv6TypeCode{1 << 8, 2 << 8, icmpEchoRequest << 8, 132 << 8, 138 << 8} {
		t.Run(fmt.Sprintf("type %d", kind.Type()), func(t *testing.T) {
			m.checkV6(t, caseV6{
				program: bpf.DatapathProgramPROGRAM_FROM_CONTAINER, reason: bpf.DatapathReasonFORWARD_ROUTED,
				in:  fromContainerV6(icmpV6(containerV6, remoteV6, kind, 64)),
				out: etherType(bridgeMAC, c1MAC, 0x86dd, icmpV6(containerV6, remoteV6, kind, 63)),
			})
		})
	}
}

// TestIPv6LinkScopeInTunnel: in VXLAN a node may send what concerns the link; no other tunnel has one.
func TestIPv6LinkScopeInTunnel(t *testing.T) {
	m := vxlanV6.machine(t)
	solicitation := icmpV6(linkLocalV6, netip.MustParseAddr("ff02::1:ff00:2"), icmpNeighborSolicitation<<8, 255)
	frame := vxlanV6.wrap(peerV6, 0, solicitation)
	group := patched(frame, patch{ipv6Len + udpLen + vxlanLen, []byte{0x33, 0x33, 0xff, 0, 0, 2}})
	strange := vxlanV6.wrap(strangerV6, 0, solicitation)
	copy(strange[ipv6Len+udpLen+vxlanLen:], []byte{0x33, 0x33, 0xff, 0, 0, 2})
	network := bpf.DatapathProgramPROGRAM_FROM_NETWORK
	m.checkAllV6(t, []caseV6{
		{name: "vxlan, to a group's MAC", program: network, in: vxlanV6.arrives(group), reason: bpf.DatapathReasonPASS_INNER_NOT_ROUTED, checked: true},
		{
			name: "vxlan, of a stranger", program: network, in: vxlanV6.arrives(strange),
			reason: bpf.DatapathReasonDROP_UNKNOWN_HOST, event: dropEvent{outer: strangerV6},
		},
	})
	for _, tun := range []tunnelV6{sixInSix, sixIn4} {
		m := tun.machine(t)
		m.checkV6(t, caseV6{
			program: network, in: tun.arrives(tun.wrap(tun.node, 0, solicitation)), reason: bpf.DatapathReasonPASS_NOT_OURS,
		})
	}
}
