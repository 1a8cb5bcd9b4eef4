// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"net/netip"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	nft              nftables.TableFamily
	source, dest     uint32 // offsets of the addresses in the IP header, bytes
	multicast        netip.Prefix
	protocol         iptables.Protocol
	command          string // and with -nft or -legacy behind it
	legacyTablesFile string // names of the tables of iptables-legacy in the thread's namespace
}

var (
	ipv4 = family{
		nft:              nftables.TableFamilyIPv4,
		source:           12,
		dest:             16,
		multicast:        netip.MustParsePrefix("224.0.0.0/4"),
		protocol:         iptables.ProtocolIPv4,
		command:          "iptables",
		legacyTablesFile: "/proc/thread-self/net/ip_tables_names",
	}
	ipv6 = family{
		nft:              nftables.TableFamilyIPv6,
		source:           8,
		dest:             24,
		multicast:        netip.MustParsePrefix("ff00::/8"),
		protocol:         iptables.ProtocolIPv6,
		command:          "ip6tables",
		legacyTablesFile: "/proc/thread-self/net/ip6_tables_names",
	}
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}
