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
	// IP over InfiniBand, in connected mode (RFC 4755): flannel has 65470, where its kernel makes the packets.
	for encap, want := range map[topology.Encap]int{topology.EncapVXLAN: 15550, topology.EncapIPIP: 15580, topology.EncapNone: 65520} {
		if got := containerMTU(store.Backend{Type: encap}, 65520, netip.IPv4Unspecified()); got != want {
			t.Errorf("%s on an uplink of MTU 65520: %d, want %d", encap, got, want)
		}
	}
}
