// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
)

// reachable are the ways out of each program that a test run can take. Those with a 4 behind them
// are of packets alone that do not come as IPv6, those with a 6 of those that do.
var reachable = map[bpf.DatapathProgram]string{
	bpf.DatapathProgramPROGRAM_FROM_CONTAINER: `FORWARD_ENCAPSULATED FORWARD_ROUTED FORWARD_LOCAL FORWARD_TO_OVERLAY/4
		PASS_PROTOCOL PASS_MALFORMED PASS_OPTIONS PASS_TTL PASS_NOT_ROUTED PASS_UNKNOWN_SOURCE PASS_NO_ROUTE PASS_LOCAL PASS_TOO_BIG
		PASS_NOT_ENCAPSULABLE PASS_NAT PASS_NAT_UNKNOWN PASS_LINK_SCOPE/6 PASS_UDP_CHECKSUM/6 DROP_CONTAINER_SOURCE`,
	bpf.DatapathProgramPROGRAM_FROM_NETWORK: `FORWARD_DELIVERED FORWARD_TO_HOST
		PASS_PROTOCOL PASS_MALFORMED PASS_OPTIONS/4 PASS_NOT_ROUTED PASS_NOT_OURS PASS_OUTER_FRAGMENT PASS_INNER_NOT_ROUTED PASS_UDP_SUPERPACKET
		PASS_NAT PASS_NAT_UNKNOWN PASS_UDP_CHECKSUM
		DROP_UNKNOWN_HOST DROP_SPOOFED_SOURCE DROP_INNER_MALFORMED DROP_ECN DROP_DECAPSULATE DROP_TUNNEL_MALFORMED`,
	bpf.DatapathProgramPROGRAM_FROM_HOST: `FORWARD_ENCAPSULATED FORWARD_ROUTED
		PASS_PROTOCOL PASS_MALFORMED PASS_NO_ROUTE PASS_LOCAL PASS_TOO_BIG PASS_NOT_ENCAPSULABLE PASS_LINK_SCOPE/6 PASS_UDP_CHECKSUM/6
		DROP_NODE_SOURCE DROP_UNSENDABLE`,
	bpf.DatapathProgramPROGRAM_FROM_OVERLAY: `PASS_CHECKED DROP_UNCHECKED`,
	bpf.DatapathProgramPROGRAM_FROM_VETH:    `FORWARD_ENCAPSULATED FORWARD_ROUTED PASS_LINK_SCOPE/6 DROP_NODE_SOURCE DROP_UNSENDABLE`,
	bpf.DatapathProgramPROGRAM_FROM_WIRE: `FORWARD_DECAPSULATED FORWARD_SPREAD
		PASS_PROTOCOL PASS_MALFORMED PASS_OPTIONS/4 PASS_NOT_ROUTED PASS_NOT_OURS PASS_OUTER_FRAGMENT PASS_INNER_NOT_ROUTED PASS_CHECKED PASS_UDP_CHECKSUM
		DROP_UNKNOWN_HOST DROP_SPOOFED_SOURCE DROP_INNER_MALFORMED DROP_ECN DROP_TUNNEL_MALFORMED DROP_WIRE_MAC`,
}

// coverage counts packets by program, reason, and whether they came as IPv6.
type coverage struct {
	sync.Mutex
	packets [counterMax][2]uint64
}

func (c *coverage) count(program bpf.DatapathProgram, reason bpf.DatapathReason, a arrival) {
	c.packets[counterKey(program, reason)][came(a)]++
}

// came is 1 for IPv6.
func came(a arrival) int {
	if ethernetHeader(a.frame).etherType() == ipv6.etherType() {
		return 1
	}
	return 0
}

func (c *coverage) add(other *coverage) {
	c.Lock()
	defer c.Unlock()
	for i, n := range other.packets {
		c.packets[i][0] += n[0]
		c.packets[i][1] += n[1]
	}
}

// check prints how often each way out of the program was taken. None but the reachable ones may be, and all of those
// have to be, where enough packets were run; in a long run, by either version.
func (c *coverage) check(t *testing.T, program bpf.DatapathProgram, all, each bool) {
	t.Helper()
	known := map[string][2]bool{}
	for _, way := range strings.Fields(reachable[program]) {
		reason, only, _ := strings.Cut(way, "/")
		known[reason] = [2]bool{only != "6", only != "4"}
	}
	var table strings.Builder
	for reason := range reasonMax {
		reason := bpf.DatapathReason(reason)
		n := c.packets[counterKey(program, reason)]
		may := known[name(reason)]
		if all && may != [2]bool{} && n == [2]uint64{} {
			t.Errorf("no packet was %s", name(reason))
		}
		for v, family := range []string{"IPv4 or other", "IPv6"} {
			switch {
			case each && may[v] && n[v] == 0:
				t.Errorf("no packet that came as %s was %s", family, name(reason))
			case n[v] != 0 && !may[v]:
				t.Errorf("%d packets that came as %s were %s, which is not listed as reachable", n[v], family, name(reason))
			}
		}
		if n != [2]uint64{} {
			fmt.Fprintf(&table, "\n%-24s %10d %10d", name(reason), n[0], n[1])
		}
	}
	t.Logf("packets, and those of IPv6:%s", table.String())
}
