// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// TestContainerMTU holds FLANNEL_MTU as flannel v0.28.4 writes it on an uplink
// of MTU 1500; more than that the kernel's vxlan device refuses.
func TestContainerMTU(t *testing.T) {
	for encap, mtus := range map[topology.Encap]map[int]int{
		topology.EncapVXLAN: {0: 1450, 118: 68, 1400: 1350, 1500: 1450, 9000: 1450},
		topology.EncapIPIP:  {0: 1480, 1400: 1480},
		topology.EncapUDP:   {0: 1472, 1400: 1472},
		topology.EncapNone:  {0: 1500, 1400: 1500},
	} {
		for mtu, want := range mtus {
			if got := containerMTU(store.Backend{Type: encap, MTU: mtu}, 1500, netip.IPv4Unspecified()); got != want {
				t.Errorf("%s with Backend.MTU %d: %d, want %d", encap, mtu, got, want)
			}
		}
	}
}
