// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

func TestUnicast(t *testing.T) {
	for mac, want := range map[topology.MAC]bool{
		{}:                                   false,
		{0x01, 0, 0x5e, 1}:                   false,
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}: false,
		{0xc6, 1, 2, 3, 4, 5}:                true,
	} {
		if got := unicast(mac); got != want {
			t.Errorf("unicast(%v) = %t, want %t", mac, got, want)
		}
	}
}

func TestRandomMACIsLocalUnicast(t *testing.T) {
	seen := map[topology.MAC]bool{}
	for range 100 {
		m := randomMAC()
		if !unicast(m) || m[0]&2 == 0 || seen[m] {
			t.Fatalf("randomMAC() = %v", hardwareAddr(m))
		}
		seen[m] = true
	}
}
