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

// forEach runs a test with each of the backends, on a lab of its own.
func forEach(t *testing.T, backends []topology.Encap, change func(*lab.Options), f func(*testing.T, *lab.Lab)) {
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			f(t, serve(t, func(o *lab.Options) {
				o.Backend = backend
				if change != nil {
					change(o)
				}
			}))
		})
	}
}

// TestOverlay holds what is true of every backend against one lab of each:
//
//	h1-c1  h1-c2             h2-c1  h2-c2
//	   .2     .3                .2     .3
//	   └ br245 ┘                └ br246 ┘
//	172.245.0.1/24           172.246.0.1/24
//	      h1                       h2
//	192.168.32.245           192.168.32.246
//	      └─────────── wire ────────┘
//
// All containers are known before it begins, so all packets take the fast path.
func TestOverlay(t *testing.T) {
	forEach(t, backends, nil, func(t *testing.T, l *lab.Lab) {
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
