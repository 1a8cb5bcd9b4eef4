// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Bridges are the ifindexes, in order, of the bridges that have links of
// containers as ports now: of those links that Watch would tell of, given these
// subnets and names to ignore.
func Bridges(ctx context.Context, subnets []netip.Prefix, ignore []string) ([]int, error) {
	found := make(map[int]bool)
	for _, m := range newMachines(subnets, ignore) {
		t, err := listThese(ctx, m.subnet, linksAndAddresses(family(m.subnet)))
		if err != nil {
			return nil, fmt.Errorf("find containers' bridges: %w", err)
		}
		m.tables = t
		for _, l := range m.links {
			if m.isVeth(l) && m.isNodeBridge(l.master) {
				found[l.master] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
