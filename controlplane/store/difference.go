// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Fits reports whether nodes may lease subnet, of either family, in this network.
func (c Config) Fits(subnet netip.Prefix) bool { return c.of(subnet).fits(subnet) }

// of is what of the network nodes lease subnets like this one from.
func (c Config) of(subnet netip.Prefix) subnetRange {
	if subnet.Addr().Is6() {
		return c.v6()
	}
	return c.v4()
}

func (c Config) v4() subnetRange {
	return subnetRange{network: c.Network, length: c.SubnetLen, first: c.SubnetMin, last: c.SubnetMax}
}

func (c Config) v6() subnetRange {
	return subnetRange{network: c.IPv6Network, length: c.IPv6SubnetLen, first: c.IPv6SubnetMin, last: c.IPv6SubnetMax}
}

// beside is the IPv6 subnet that has the same place in its network as subnet in
// the IPv4 network; the zero Prefix where there is none.
func (c Config) beside(subnet netip.Prefix) netip.Prefix {
	v6 := c.v6()
	if !subnet.Addr().Is4() || !c.Network.IsValid() || !v6.network.IsValid() {
		return netip.Prefix{}
	}
	place := subnet.Addr().As4()
	n := binary.BigEndian.Uint32(place[:])
	base := c.Network.Addr().As4()
	n = (n - binary.BigEndian.Uint32(base[:])) >> (32 - subnet.Bits())
	return v6.nth(n)
}

// Difference says, a line each, in which fields c is another than old.
func (c Config) Difference(old Config) []string {
	var out []string
	for _, f := range []struct {
		name     string
		was, now any
	}{
		{"EnableIPv4", old.EnableIPv4, c.EnableIPv4},
		{"Network", old.Network, c.Network},
		{"SubnetLen", old.SubnetLen, c.SubnetLen},
		{"SubnetMin", old.SubnetMin, c.SubnetMin},
		{"SubnetMax", old.SubnetMax, c.SubnetMax},
		{"EnableIPv6", old.EnableIPv6, c.EnableIPv6},
		{"IPv6Network", old.IPv6Network, c.IPv6Network},
		{"IPv6SubnetLen", old.IPv6SubnetLen, c.IPv6SubnetLen},
		{"IPv6SubnetMin", old.IPv6SubnetMin, c.IPv6SubnetMin},
		{"IPv6SubnetMax", old.IPv6SubnetMax, c.IPv6SubnetMax},
		{"Backend.Type", old.Backend.Type, c.Backend.Type},
		{"Backend.VNI", old.Backend.VNI, c.Backend.VNI},
		{"Backend.Port", old.Backend.Port, c.Backend.Port},
		{"Backend.MTU", old.Backend.MTU, c.Backend.MTU},
		{"Backend.DirectRouting", old.Backend.DirectRouting, c.Backend.DirectRouting},
		{"Backend.Learning", old.Backend.Learning, c.Backend.Learning},
		{"Backend.GBP", old.Backend.GBP, c.Backend.GBP},
	} {
		if f.was != f.now {
			out = append(out, fmt.Sprintf("%s: %v -> %v", f.name, printable(f.was), printable(f.now)))
		}
	}
	return out
}

// printable is a field's value as people write it; unset ones netip calls invalid.
func printable(v any) any {
	if s := fmt.Sprint(v); strings.HasPrefix(s, "invalid ") || s == "" {
		return "none"
	}
	return v
}

// Speaks reports whether nodes of c and of old understand each other's packets.
func (c Config) Speaks(old Config) bool {
	return c.EnableIPv4 == old.EnableIPv4 && c.Backend.Type == old.Backend.Type &&
		c.Backend.VNI == old.Backend.VNI && c.Backend.Port == old.Backend.Port
}
