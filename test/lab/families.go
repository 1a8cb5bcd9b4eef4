// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
)

// Families are the IP versions that something has addresses of.
type Families string

// What a lab's underlay and its containers can have.
const (
	V4   Families = "ipv4"
	V6   Families = "ipv6"
	Dual Families = "dual"
)

func (f Families) v4() bool { return f != V6 }
func (f Families) v6() bool { return f == V6 || f == Dual }

// Each is the versions one by one, V4 first.
func (f Families) Each() []Families {
	if f == Dual {
		return []Families{V4, V6}
	}
	return []Families{f}
}

// Of is the one of two addresses that is of the family: f is V4 or V6.
func (f Families) of(v4, v6 netip.Addr) netip.Addr {
	if f.v6() {
		return v6
	}
	return v4
}

// IPv6 addresses read like the IPv4 ones: host 1 is fd00:192:168:32::245 with
// containers in fd00:172:244:245::/64.

// Network6 holds all hosts' IPv6 subnets, each of SubnetLen6.
var Network6 = netip.MustParsePrefix("fd00:172:244::/48")

// SubnetLen6 is the prefix length of a host's IPv6 subnet.
const SubnetLen6 = 64

// linkLocalGateway6 is calicoMAC's link-local address (RFC 4291, appendix A):
// every container's IPv6 next hop where there is no bridge.
const linkLocalGateway6 = "fe80::ecee:eeff:feee:eeee"

func segmentAddr6(segment, last int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd00:192:168:%d::%d/64", 31+segment, last))
}

func subnet6Of(host int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd00:172:244:%d::/%d", hostByte(host), SubnetLen6))
}

// silentIPv6 keeps IPv6 deterministic for all links to come: addresses are
// usable at once (no duplicate address detection, RFC 4862, 5.4), and nobody asks
// for routers.
func silentIPv6() error {
	for _, of := range []string{"all", "default"} {
		dir := "net/ipv6/conf/" + of + "/"
		if err := setSysctls("0", dir+"accept_dad", dir+"dad_transmits", dir+"accept_ra", dir+"router_solicitations", dir+"forwarding"); err != nil {
			return err
		}
	}
	return nil
}
