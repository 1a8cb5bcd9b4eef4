// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// backends are the ways packets travel between hosts, tunnels those that add a header.
var (
	tunnels  = []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP, topology.EncapUDP}
	backends = append(tunnels, topology.EncapNone)
)

// TestOverlay holds what is true of every mode against one lab of each:
//
//	h1-c1  h1-c2             h2-c1  h2-c2
//	   .2     .3                .2     .3
//	   └ br245 ┘                └ br246 ┘
//	172.245.0.1/24           172.246.0.1/24
//	      h1                       h2
//	192.168.32.245           192.168.32.246
//	      └─────────── wire ────────┘
//
// All containers are known before it begins, so all packets take the fast path
// where there is one.
func TestOverlay(t *testing.T) {
	forEach(t, allModes, nil, func(t *testing.T, l *lab.Lab) {
		for _, test := range []struct {
			name string
			run  func(*testing.T, *lab.Lab)
		}{
			{"wire", testWire},
			{"bare", testBare},
			{"paths", testPaths},
			{"stream", testStream},
			{"datagram superpackets", testDatagramSuperpackets},
			{"segmented", testSegmented},
			{"datagrams", testDatagrams},
			{"fragments", testFragmentsOutOfOrder},
			{"ttl", testTTL},
			{"options", testOptions},
			{"ecn", testECN},
			{"forged", testForged},
			{"foreign", testForeign},
		} {
			t.Run(test.name, func(t *testing.T) { test.run(t, l) })
		}
	})
}
