// SPDX-License-Identifier: Apache-2.0

//go:build root

package node

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// TestCareWithoutEtcd: what an earlier daemon knew of a container whose link is
// gone is lost traffic; with nothing but the pinned maps it is forgotten, and
// the kernel delivers.
func TestCareWithoutEtcd(t *testing.T) {
	l, _, set := servedLoop(t)
	l.AdoptPinned = func() (*maps.Set, error) { return set, nil }
	dead := maps.Endpoint{Ifindex: 9999, MAC: topology.MAC{2, 0, 0, 0, 0, 1}, Gateway: topology.MAC{2, 0, 0, 0, 0, 2}}
	at := netip.MustParseAddr("172.245.0.2")
	if err := set.Endpoints.Put(network, at, dead); err != nil {
		t.Fatal(err)
	}
	own := maps.Route{Network: network, Prefix: l.first().self.Subnet, Host: uint32(bpf.DatapathHostIndexHOST_SELF)}
	if err := set.Routes.Put(own); err != nil {
		t.Fatal(err)
	}
	part := func(ctx context.Context) error {
		err := l.care(ctx, "eth0")
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	whileRunning(t, part, func() {
		until(t, "the dead container forgotten", func() bool {
			all, err := set.Endpoints.All()
			return err == nil && len(all) == 0
		})
	})
}

// TestCareBeginsAndEnds: once, also where there is nothing to care for.
func TestCareBeginsAndEnds(t *testing.T) {
	log, lines := logged()
	n := &node{log: log, reporter: newReporter(log)}
	n.FastPath = true
	n.AdoptPinned = func() (*maps.Set, error) { return maps.AdoptPinned(filepath.Join(t.TempDir(), "none")) }
	for range 2 {
		n.beginCare(t.Context(), "eth0")
		n.beginCare(t.Context(), "eth0")
		n.endCare()
		n.endCare()
	}
	checkLines(t, "nothing pinned", lines())
}
