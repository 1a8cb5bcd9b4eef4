// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// manyPeers are peers whose paths have so many MTUs.
func manyPeers(n, mtus int) []topology.Peer {
	peers := make([]topology.Peer, n)
	for i := range peers {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(246 + i>>8), byte(i), 0}), 24)
		node := netip.AddrFrom4([4]byte{192, 168, byte(40 + i>>8), byte(i)})
		peers[i] = topology.Peer{
			Key: fmt.Sprintf("%v-24", subnet.Addr()), Subnet: subnet, Node: node, Encap: topology.EncapVXLAN,
			VTEP: topology.VTEP{MAC: topology.MAC{2, 0, 0, 1, byte(i >> 8), byte(i)}, Addr: subnet.Addr()},
			Path: topology.Path{Ifindex: 2, NextHop: node, MTU: 1000 + i%mtus},
		}
	}
	return peers
}

// TestTemplates: nodes that differ in nothing else share one, more classes than
// there is room for are served by the entries of hosts, and what nobody has goes.
func TestTemplates(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	for _, step := range []struct {
		mtus      int
		templates int // that are in the map afterwards, with those of before
		slow      int // routes without one
	}{{1, 1, 0}, {300, 255, 300 - 255}, {1, 1, 0}} {
		s := stateOf(manyPeers(300, step.mtus)...)
		must(t, d.Apply(s))
		must(t, d.Reread()) // everything is looked at
		must(t, d.Apply(s))
		r.check(t, s)
		if n := mustGet[maps.Usage](t)(r.set.Templates.Usage()).Used; n != step.templates {
			t.Errorf("%d MTUs: %d templates, want %d", step.mtus, n, step.templates)
		}
		slow := 0
		for _, route := range mustGet[[]maps.Route](t)(r.set.Routes.All()) {
			if route.Host != hostSelf && route.Shortcut.Template == 0 {
				slow++
			}
		}
		if slow != step.slow {
			t.Errorf("%d MTUs: %d routes without a template, want %d", step.mtus, slow, step.slow)
		}
	}
}
