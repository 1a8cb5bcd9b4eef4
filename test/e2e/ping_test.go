// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// backends are the ways packets travel between hosts.
var backends = []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP, topology.EncapUDP, topology.EncapNone}

// forEachBackend runs a test in every mode, on a lab of its own.
func forEachBackend(t *testing.T, change func(*lab.Options), f func(t *testing.T, l *lab.Lab)) {
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

func TestPing(t *testing.T) {
	forEachBackend(t, nil, func(t *testing.T, l *lab.Lab) {
		from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
		if ttl := ping(t, from.NS, to.Addr, lab.PingOptions{Count: 5, Interval: time.Millisecond}); ttl != 62 {
			t.Errorf("TTL %d, want 62", ttl)
		}
	})
}
