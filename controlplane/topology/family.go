// SPDX-License-Identifier: Apache-2.0

package topology

import "net/netip"

// family is how leases and the command line call what they have of each family.
type family struct{ name, address, flag, data string }

var (
	ipv4 = family{"IPv4", "PublicIP", "--public-ip", "BackendData"}
	ipv6 = family{"IPv6", "PublicIPv6", "--public-ipv6", "BackendV6Data"}
)

func familyOf(a netip.Addr) family {
	if a.Is6() {
		return ipv6
	}
	return ipv4
}
