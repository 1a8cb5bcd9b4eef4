// SPDX-License-Identifier: Apache-2.0

package topology

import "testing"

// TestOverhead holds the bytes of DESIGN's table "on the wire".
func TestOverhead(t *testing.T) {
	for e, want := range map[Encap]int{EncapVXLAN: 50, EncapIPIP: 20, EncapUDP: 28, EncapNone: 0, "gre": 0} {
		if got := e.Overhead(); got != want {
			t.Errorf("overhead of %s is %d, want %d", e, got, want)
		}
	}
}

func TestMTUTo(t *testing.T) {
	for name, test := range map[string]struct {
		encap     Encap
		own, path int
		want      int
	}{
		"path as wide as the uplink": {EncapVXLAN, 1450, 1500, 1450},
		"narrow path":                {EncapIPIP, 1480, 1400, 1380},
		"wide path":                  {EncapUDP, 1372, 1500, 1372},
		"direct":                     {EncapNone, 1350, 1500, 1500}, // DirectRouting: no tunnel limits it
	} {
		if got := (Self{MTU: test.own}).MTUTo(Peer{Encap: test.encap, Path: Path{MTU: test.path}}); got != test.want {
			t.Errorf("%s: MTU %d, want %d", name, got, test.want)
		}
	}
}
