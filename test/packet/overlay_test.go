// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

func TestFromOverlay(t *testing.T) {
	checkAll(t, bpf.DatapathProgramPROGRAM_FROM_OVERLAY, tables()[bpf.DatapathProgramPROGRAM_FROM_OVERLAY])
}

// overlayCases: what bpfnet0 hands to the stack, by whether from_network has seen it.
func overlayCases() []packetCase {
	frame := ethernet(overlay.mac, vtep2, datagram{src: remote2, dst: c1}.bytes())
	out := func(name string, mark uint32, reason bpf.DatapathReason) packetCase {
		return packetCase{
			name: name, in: arrival{frame: frame, ifindex: overlay.ifindex, mark: mark}, reason: reason,
		}
	}
	return []packetCase{
		out("checked", markChecked, bpf.DatapathReasonPASS_CHECKED),
		out("checked, with somebody's mark", markChecked|0x4001, bpf.DatapathReasonPASS_CHECKED),
		out("past from_network", 0, bpf.DatapathReasonDROP_UNCHECKED),
		out("past from_network, with somebody's mark", 0x00b80000, bpf.DatapathReasonDROP_UNCHECKED),
	}
}
