// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

func TestFromVeth(t *testing.T) {
	checkAll(t, bpf.DatapathProgramPROGRAM_FROM_VETH, tables()[bpf.DatapathProgramPROGRAM_FROM_VETH])
}

// vethToRemote: the kernel's packets, as from_host sends them, and the containers', as from_container
// leaves them: no more hops are taken off.
func vethToRemote() []packetCase {
	cases := hostToRemote()
	for i := range cases {
		cases[i] = swallowed(cases[i])
	}
	for _, r := range remotes {
		for kind, d := range carried(c1, r.container, r.mtu) {
			in := arrival{frame: fromC1(d).frame, ifindex: overlay.ifindex}
			cases = append(cases, packetCase{
				name: r.name + "/container's " + kind, in: in,
				reason: sentReason(r.node), out: sent(in.frame, r.node, d.bytes()),
			})
		}
	}
	return cases
}

// vethOthers: what from_host leaves to the kernel's device is dropped, for here there is none.
func vethOthers() []packetCase {
	cases := hostOthers()
	for i := range cases {
		cases[i] = swallowed(cases[i])
	}
	return cases
}

// swallowed is a case of from_host as from_veth has to take it.
func swallowed(c packetCase) packetCase {
	if action(c.reason) != actNext {
		return c
	}
	readable := c.reason != bpf.DatapathReasonPASS_PROTOCOL && c.reason != bpf.DatapathReasonPASS_MALFORMED
	c.reason = bpf.DatapathReasonDROP_UNSENDABLE
	if readable {
		ip := ipHeader(c.in.frame[etherLen:])
		c.event = dropEvent{src: ip.src(), dst: ip.dst()}
	}
	return c
}
