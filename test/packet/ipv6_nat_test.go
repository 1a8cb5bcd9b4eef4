// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestIPv6NAT: the kernel gets what conntrack translates, or cannot say; out of an IP tunnel, from us.
func TestIPv6NAT(t *testing.T) {
	send, receive := bpf.DatapathProgramPROGRAM_FROM_CONTAINER, bpf.DatapathProgramPROGRAM_FROM_NETWORK
	for _, tun := range []tunnelV6{vxlanV6, sixInSix, sixIn4, directV6} {
		t.Run(tun.name, func(t *testing.T) {
			sent := func(name string, ip []byte, reason bpf.DatapathReason) caseV6 {
				return caseV6{name: name + "/sent", program: send, in: fromContainerV6(ip), reason: reason}
			}
			received := func(name string, ip []byte, reason bpf.DatapathReason) caseV6 {
				c := caseV6{name: name + "/received", program: receive, in: tun.arrives(tun.wrap(tun.node, 0, ip)), reason: reason}
				switch tun.encap {
				case topology.EncapVXLAN:
					c.checked = true
				case topology.EncapIPIP:
					c.reason, c.checked = bpf.DatapathReasonFORWARD_TO_HOST, true
					c.out = etherType(overlay.mac, routerMAC, tun.etherType(), ip)
				}
				return c
			}
			out, in := packetV6{src: containerV6, dst: remoteV6}, packetV6{src: remoteV6, dst: containerV6}
			untracked, delivered := packetV6{src: remoteV6.Next(), dst: containerV6}, packetV6{src: remoteV6.Next(), dst: containerV6, hops: 63}
			translated, unknown := bpf.DatapathReasonPASS_NAT, bpf.DatapathReasonPASS_NAT_UNKNOWN
			local := packetV6{src: containerV6, dst: secondV6}
			passes := caseV6{
				name: "not tracked/received", program: receive, in: tun.arrives(tun.wrap(tun.node, 0, untracked.bytes())),
				reason: bpf.DatapathReasonFORWARD_DELIVERED, out: etherType(c1MAC, bridgeMAC, 0x86dd, delivered.bytes()),
			}
			cases := []caseV6{
				passes,
				sent("translated", out.bytes(), translated), received("translated", in.bytes(), translated),
				sent("fragment", fragmentOf(out, 9, true).bytes(), unknown), received("fragment", fragmentOf(in, 9, true).bytes(), unknown),
				sent("ICMPv6", icmpV6(containerV6, remoteV6, icmpEchoRequest<<8, 64), unknown),
				received("ICMPv6", icmpV6(remoteV6, containerV6, icmpEchoRequest<<8, 64), unknown),
				sent("extension", extension(local, protocolOptions, padding...).bytes(), unknown),
			}
			tun := tun
			tun.nat = bpf.DatapathNatModeNAT_CONNTRACK
			tun.machine(t).checkAllV6(t, cases)
			tun.nat = bpf.DatapathNatModeNAT_OTHER
			tun.machine(t).checkAllV6(t, []caseV6{
				sent("not to be asked", out.bytes(), unknown), sent("not to be asked, local", local.bytes(), unknown),
				received("not to be asked", in.bytes(), unknown),
			})
		})
	}
}
