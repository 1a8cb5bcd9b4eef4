// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"net/netip"
)

// family is what the rules for the network and its subnets depend on.
type family struct {
	fields string // what the names of the family's config fields start with
	bits   int    // of an address
	subnet int    // prefix length of a node's subnet, where the network has room for four of them
	sample string
}

var (
	ipv4 = family{bits: 32, subnet: 24, sample: "10.244.0.0/16"}
	ipv6 = family{fields: "IPv6", bits: 128, subnet: 64, sample: "fc00::/48"}
)

// subnetRange is a network and which of its subnets nodes may lease.
type subnetRange struct {
	network     netip.Prefix
	length      int
	first, last netip.Addr
}

// parse checks the four fields that describe a subnetRange and fills in those
// that are empty.
func (f family) parse(network string, length int, first, last string) (subnetRange, error) {
	n, err := f.parseNetwork(network)
	if err != nil {
		return subnetRange{}, err
	}
	r := subnetRange{network: n}
	if r.length, err = f.subnetLen(n, length); err != nil {
		return subnetRange{}, err
	}
	// The first subnet is skipped: its first address is the network's own.
	second, _ := nextSubnet(netip.PrefixFrom(n.Addr(), r.length))
	if r.first, err = f.bound(r, "SubnetMin", first, second.Addr()); err != nil {
		return subnetRange{}, err
	}
	if r.last, err = f.bound(r, "SubnetMax", last, lastSubnet(n, r.length)); err != nil {
		return subnetRange{}, err
	}
	if r.last.Less(r.first) {
		return subnetRange{}, fmt.Errorf("%sSubnetMin %v is above %sSubnetMax %v: no subnet is left to lease",
			f.fields, r.first, f.fields, r.last)
	}
	return r, nil
}

func (f family) parseNetwork(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, fmt.Errorf("%sNetwork is missing: give one such as %q", f.fields, f.sample)
	}
	n, err := netip.ParsePrefix(s)
	if err != nil || n.Addr().BitLen() != f.bits || n.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%sNetwork %q is no network: give one such as %q", f.fields, s, f.sample)
	}
	return n.Masked(), nil
}

// subnetLen checks the subnets' prefix length, or chooses it where it is 0:
// the usual one where the network has room for four of them, else the one that
// makes four. The first is never leased, so with two there would be one node.
func (f family) subnetLen(network netip.Prefix, length int) (int, error) {
	// A subnet needs addresses for the tunnel device, the bridge and a container.
	longest := f.bits - 2
	switch {
	case length == 0 && network.Bits()+2 > longest:
		return 0, fmt.Errorf("%sNetwork %v is too small: the smallest is a /%d", f.fields, network, longest-2)
	case length == 0:
		return max(f.subnet, network.Bits()+2), nil
	case length < 0 || length > longest:
		return 0, fmt.Errorf("%sSubnetLen %d is not within 1 to %d", f.fields, length, longest)
	case length < network.Bits()+2:
		return 0, fmt.Errorf("%sSubnetLen %d leaves %sNetwork %v less than four subnets: give %d or more",
			f.fields, length, f.fields, network, network.Bits()+2)
	}
	return length, nil
}

// bound checks the first address of the first or last subnet. Like flannel, it
// takes the unspecified address for an empty field.
func (f family) bound(r subnetRange, field, s string, otherwise netip.Addr) (netip.Addr, error) {
	field = f.fields + field
	if s == "" {
		return otherwise, nil
	}
	a, err := netip.ParseAddr(s)
	if a = a.Unmap(); err != nil || a.BitLen() != f.bits || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s %q is no address: give the first one of a subnet, such as %q",
			field, s, otherwise)
	}
	aligned := netip.PrefixFrom(a, r.length).Masked().Addr()
	switch {
	case a.IsUnspecified():
		return otherwise, nil
	case !r.network.Contains(a):
		return netip.Addr{}, fmt.Errorf("%s %v is not in %sNetwork %v", field, a, f.fields, r.network)
	case a != aligned:
		return netip.Addr{}, fmt.Errorf("%s %v is not where a /%d begins: give %v", field, a, r.length, aligned)
	}
	return a, nil
}

// fits reports whether nodes may lease subnet under r.
func (r subnetRange) fits(subnet netip.Prefix) bool {
	return r.network.IsValid() && subnet.IsValid() && subnet == subnet.Masked() && subnet.Bits() == r.length && !subnet.Addr().Less(r.first) && !r.last.Less(subnet.Addr())
}

// nth returns the network's subnet number n, from 0; the zero Prefix if it has none.
func (r subnetRange) nth(n uint32) netip.Prefix {
	b := r.network.Addr().As16() // of IPv6
	for i := r.length - 1; i >= r.network.Bits() && n != 0; i-- {
		if n&1 != 0 {
			b[i/8] |= byte(0x80) >> (i % 8)
		}
		n >>= 1
	}
	if n != 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), r.length)
}

// free returns the first n subnets of r that taken does not report.
func (r subnetRange) free(n int, taken func(netip.Prefix) bool) []netip.Prefix {
	var out []netip.Prefix
	p, more := netip.PrefixFrom(r.first, r.length), true
	for ; more && len(out) < n && !r.last.Less(p.Addr()); p, more = nextSubnet(p) {
		if !taken(p) {
			out = append(out, p)
		}
	}
	return out
}

// nextSubnet returns the prefix of the same length that follows p; false where
// p is the last of all addresses.
func nextSubnet(p netip.Prefix) (netip.Prefix, bool) {
	b := p.Addr().AsSlice()
	for i := p.Bits() - 1; i >= 0; i-- {
		bit := byte(0x80) >> (i % 8)
		b[i/8] ^= bit
		if b[i/8]&bit != 0 { // no carry
			a, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(a, p.Bits()), true
		}
	}
	return p, false
}

// lastSubnet returns the first address of network's last subnet of length.
func lastSubnet(network netip.Prefix, length int) netip.Addr {
	b := network.Addr().AsSlice()
	for i := network.Bits(); i < length; i++ {
		b[i/8] |= byte(0x80) >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
