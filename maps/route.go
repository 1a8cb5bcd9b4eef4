// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// Route says which host the addresses of a prefix belong to.
type Route struct {
	Network uint32
	Prefix  netip.Prefix
	Host    uint32 // index in hosts
	// Shortcut is kept where the route has a slot of its own in route_index, and is zero elsewhere.
	Shortcut Shortcut
}

// RouteKey is what a route is found by.
type RouteKey struct {
	Network uint32
	Prefix  netip.Prefix
}

func (k RouteKey) String() string { return fmt.Sprintf("%s of network %d", k.Prefix, k.Network) }

// Bits of a route's key in front of the prefix: the network's number and, of IPv4, ::ffff:0:0/96.
const (
	networkBits = 32
	mappedBits  = 96
	addrBits    = 128
)

func encodeRouteKey(k RouteKey) (bpf.DatapathRouteKey, error) {
	p := k.Prefix
	switch {
	case !p.IsValid():
		return bpf.DatapathRouteKey{}, errors.New("no prefix")
	case p.Addr().Is4In6():
		return bpf.DatapathRouteKey{}, errMappedAddr
	case p != p.Masked():
		return bpf.DatapathRouteKey{}, fmt.Errorf("not the first address of the prefix: %s is", p.Masked().Addr())
	}
	bits := networkBits + p.Bits()
	if p.Addr().Is4() {
		bits += mappedBits
	}
	return bpf.DatapathRouteKey{
		PrefixLen: uint32(bits),
		Network:   hostToNet(k.Network),
		Addr:      Addr(p.Addr()),
	}, nil
}

func decodeRouteKey(w bpf.DatapathRouteKey) (RouteKey, error) {
	if w.PrefixLen < networkBits || w.PrefixLen > networkBits+addrBits {
		return RouteKey{}, fmt.Errorf("prefix_len %d, not %d to %d", w.PrefixLen, networkBits, networkBits+addrBits)
	}
	a, bits := NetipAddr(w.Addr), int(w.PrefixLen)-networkBits
	switch {
	case !a.IsValid(): // all zeroes: ::/bits
		a = netip.IPv6Unspecified()
	case a.Is4() && bits >= mappedBits:
		bits -= mappedBits
	case a.Is4():
		return RouteKey{}, fmt.Errorf("prefix_len %d, which covers more than IPv4", w.PrefixLen)
	}
	// The trie ignores what follows the prefix (kernel/bpf/lpm_trie.c), and so do we.
	return RouteKey{Network: netToHost(w.Network), Prefix: netip.PrefixFrom(a, bits).Masked()}, nil
}

func compareRouteKeys(a, b RouteKey) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), a.Prefix.Compare(b.Prefix))
}
