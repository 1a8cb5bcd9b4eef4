// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/bpf"
)

// flow is one direction of a connection as it is seen on the wire.
type flow struct {
	protocol uint8
	src, dst netip.AddrPort
}

func (f flow) reversed() flow { return flow{f.protocol, f.dst, f.src} }

// connection is one that the node's conntrack knows: what its first packet looked like, and where
// that was sent instead. It is translated where to is another address or port than first has.
type connection struct {
	first flow
	to    netip.AddrPort
}

func (c connection) translated() bool { return c.first.dst != c.to }

// answer is what comes back, before it is translated back.
func (c connection) answer() flow {
	f := c.first
	f.dst = c.to
	return f.reversed()
}

// Addresses of services, which are no containers'.
var (
	service1 = netip.MustParseAddr("10.96.0.1")
	service2 = netip.MustParseAddr("10.96.0.2")
)

// connections are what conntrack knows in the test's namespace. Port 40000 is the client's.
var connections = serviceConnections()

func serviceConnections() (all []connection) {
	at := netip.AddrPortFrom
	for _, protocol := range []uint8{protocolUDP, protocolTCP} {
		for i, backend := range []netip.Addr{remote2, remote3, remote4, remote5} {
			vip := at(service1, uint16(8000+i))
			all = append(all,
				// c1 asks a service that a remote container serves; a remote container asks a port
				// of the node that c1 serves.
				connection{flow{protocol, at(c1, 40000), vip}, at(backend, 53)},
				connection{flow{protocol, at(backend, 40000), at(node1, 8080)}, at(c1, 53)},
				connection{flow{protocol, at(c1, 40001), at(backend, 53)}, at(backend, 53)}, // no service
			)
		}
		all = append(all, connection{flow{protocol, at(c1, 40000), at(service2, 80)}, at(c2, 53)})
	}
	return all
}

// connectionsV6 are translated ones whose answers are packetV6's datagrams, sent and received.
var connectionsV6 = []connection{
	{flow{protocolUDP, netip.AddrPortFrom(remoteV6, 53), netip.MustParseAddrPort("[fd00:96::1]:8000")}, netip.AddrPortFrom(containerV6, 40000)},
	{flow{protocolUDP, netip.AddrPortFrom(containerV6, 53), netip.MustParseAddrPort("[fd00:96::1]:8001")}, netip.AddrPortFrom(remoteV6, 40000)},
}

// translations are the packets of translated connections.
var translations = func() map[flow]bool {
	all := map[flow]bool{}
	for _, c := range slices.Concat(connections, connectionsV6) {
		if c.translated() {
			all[c.first], all[c.answer()] = true, true
		}
	}
	return all
}()

// mayTranslate says whether a packet between containers has to be left to the kernel, as it is or may
// be of a connection whose addresses the kernel translates. ip goes up to the end of the frame.
func (w *world) mayTranslate(ip ipHeader) (bpf.DatapathReason, bool) {
	if w.nat == bpf.DatapathNatModeNAT_NONE {
		return 0, false
	}
	ported := ip.protocol() == protocolTCP || ip.protocol() == protocolUDP
	if w.nat == bpf.DatapathNatModeNAT_OTHER || !w.conntrack || !ported || ip.isFragment() || len(ip) < ip.len()+4 {
		return bpf.DatapathReasonPASS_NAT_UNKNOWN, true
	}
	ports := ip[ip.len():]
	f := flow{
		ip.protocol(),
		netip.AddrPortFrom(ip.src(), binary.BigEndian.Uint16(ports)),
		netip.AddrPortFrom(ip.dst(), binary.BigEndian.Uint16(ports[2:])),
	}
	return bpf.DatapathReasonPASS_NAT, translations[f]
}
