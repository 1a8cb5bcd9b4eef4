// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// event is one change of the kernel's tables, or one entry of a listing.
type event struct {
	gone   bool // RTM_DEL*: the record is no more
	record any  // link, localAddr, hostRoute, nextHop, neighbour or fdbEntry
}

// link is a network device.
type link struct {
	ifindex int
	name    string
	kind    string // IFLA_INFO_KIND: "veth", "bridge"; "" for a physical device
	mac     topology.MAC
	master  int  // ifindex of the bridge (or bond, or VRF) it is a port of; 0 if none
	up      bool // IFF_UP: not set down by the administrator
	carrier bool // IFF_LOWER_UP: of a veth, the other end is up too
	away    bool // IFLA_LINK_NETNSID: of a veth, the other end is in another network namespace
}

// localAddr is an address of this host.
type localAddr struct {
	ifindex int
	addr    netip.Addr
	prefix  netip.Prefix // of IPv4, for a device may have an address in several; of the peer where there is one
}

// hostRoute is a route of the main table to one address.
type hostRoute struct {
	addr    netip.Addr
	ifindex int
	metric  uint32
	onLink  bool       // unicast and without a gateway: addr itself is on the link
	several ifindexes  // of its next hops where they are several
	object  bool       // by a next hop object
	lasting bool       // of IPv4's scope host: stays while its device is down
	source  netip.Addr // preferred source, of IPv4; invalid if none
}

// ifindexes compares with ==: 4 bytes each.
type ifindexes string

func (i ifindexes) has(ifindex int) bool {
	for ; i != ""; i = i[4:] {
		if number([]byte(i[:4])) == uint32(ifindex) {
			return true
		}
	}
	return false
}

// nextHop is a next hop object, whichever.
type nextHop struct{}

// neighbour is an entry of a device's ARP or NDP table.
type neighbour struct {
	ifindex int
	addr    netip.Addr
	mac     topology.MAC // zero unless state is one with a valid address
	state   uint16       // NUD_*
}

// fdbEntry says behind which port of a bridge a MAC lives. VLANs of one bridge
// are taken together: the MAC is where it was learned last.
type fdbEntry struct {
	bridge int
	mac    topology.MAC
	port   int // 0: the MAC is one of the bridge's own
}

// nudValid is the kernel's NUD_VALID: the states in which an entry's MAC is usable.
const nudValid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE |
	unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY

// messages says what the rtnetlink messages of interest hold.
var messages = map[uint16]struct {
	gone  bool
	size  int // of the fixed header in front of the attributes
	parse func(header, attributes []byte) any
}{
	unix.RTM_NEWLINK:  {false, unix.SizeofIfInfomsg, parseLink},
	unix.RTM_DELLINK:  {true, unix.SizeofIfInfomsg, parseLink},
	unix.RTM_NEWADDR:  {false, unix.SizeofIfAddrmsg, parseAddr},
	unix.RTM_DELADDR:  {true, unix.SizeofIfAddrmsg, parseAddr},
	unix.RTM_NEWROUTE: {false, unix.SizeofRtMsg, parseRoute},
	unix.RTM_DELROUTE: {true, unix.SizeofRtMsg, parseRoute},
	unix.RTM_NEWNEIGH: {false, unix.SizeofNdMsg, parseNeigh},
	unix.RTM_DELNEIGH: {true, unix.SizeofNdMsg, parseNeigh},

	unix.RTM_NEWNEXTHOP: {false, unix.SizeofNhmsg, parseNextHop},
	unix.RTM_DELNEXTHOP: {true, unix.SizeofNhmsg, parseNextHop},
}

// parse reads one rtnetlink message. It reports false for a message that is of
// no interest or that makes no sense.
func parse(typ uint16, data []byte) (event, bool) {
	m, ok := messages[typ]
	if !ok || len(data) < m.size {
		return event{}, false
	}
	record := m.parse(data[:m.size], data[m.size:])
	return event{gone: m.gone, record: record}, record != nil
}

// parseLink reads a struct ifinfomsg. The messages that bridges and protocols
// send of their ports (AF_BRIDGE, AF_INET6) are left out: their RTM_DELLINK
// means that a port left its bridge, not that the device is gone.
func parseLink(h, attributes []byte) any {
	if h[0] != unix.AF_UNSPEC {
		return nil
	}
	flags := binary.NativeEndian.Uint32(h[8:])
	l := link{
		ifindex: int(int32(binary.NativeEndian.Uint32(h[4:]))),
		up:      flags&unix.IFF_UP != 0,
		carrier: flags&unix.IFF_LOWER_UP != 0,
	}
	for typ, value := range attrs(attributes) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = text(value)
		case unix.IFLA_ADDRESS:
			l.mac = mac(value)
		case unix.IFLA_MASTER:
			l.master = int(number(value))
		case unix.IFLA_LINK_NETNSID:
			l.away = true
		case unix.IFLA_LINKINFO:
			for typ, value := range attrs(value) {
				if typ == unix.IFLA_INFO_KIND {
					l.kind = text(value)
				}
			}
		}
	}
	return l
}

// parseAddr reads a struct ifaddrmsg.
func parseAddr(h, attributes []byte) any {
	var local, address netip.Addr // the latter is the peer's where the former stands beside it
	for typ, value := range attrs(attributes) {
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(value)
		}
	}
	a := localAddr{ifindex: int(int32(binary.NativeEndian.Uint32(h[4:]))), addr: cmp.Or(local, address)}
	if !a.addr.IsValid() {
		return nil
	}
	if a.addr.Is4() {
		a.prefix = netip.PrefixFrom(cmp.Or(address, local), int(h[1]))
	}
	return a
}

const rtaNHID = 30 // RTA_NH_ID, linux/rtnetlink.h

func parseNextHop(_, _ []byte) any { return nextHop{} }

// parseRoute reads a struct rtmsg. Only routes of the main table to a single
// address are of interest. An IPv6 route loses its source, untold, with the
// address, and stays (fib6_remove_prefsrc in net/ipv6/route.c): it is not kept.
func parseRoute(h, attributes []byte) any {
	table := uint32(h[4])
	gateway := false
	var r hostRoute
	for typ, value := range attrs(attributes) {
		switch typ {
		case unix.RTA_TABLE:
			table = number(value)
		case unix.RTA_DST:
			r.addr, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			r.ifindex = int(number(value))
		case unix.RTA_PRIORITY:
			r.metric = number(value)
		case unix.RTA_PREFSRC:
			if h[0] == unix.AF_INET {
				r.source, _ = netip.AddrFromSlice(value)
			}
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			gateway = true
		case rtaNHID:
			r.object = true
		case unix.RTA_MULTIPATH:
			r.several = nextHops(value)
		}
	}
	length, tos, cloned := int(h[1]), h[3], binary.NativeEndian.Uint32(h[8:])&unix.RTM_F_CLONED != 0
	if !r.addr.IsValid() || length != r.addr.BitLen() || table != unix.RT_TABLE_MAIN || tos != 0 || cloned {
		return nil
	}
	r.onLink = h[7] == unix.RTN_UNICAST && !gateway && r.ifindex != 0
	r.lasting = h[0] == unix.AF_INET && h[6] == unix.RT_SCOPE_HOST
	return r
}

// nextHops reads an array of struct rtnexthop: length, flags, hops and ifindex, then attributes.
func nextHops(b []byte) (all ifindexes) {
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			return all
		}
		all += ifindexes(b[4:unix.SizeofRtNexthop])
		b = b[min((length+3)&^3, len(b)):]
	}
	return all
}

// parseNeigh reads a struct ndmsg: of an ARP or NDP table, or of a bridge's FDB.
func parseNeigh(h, attributes []byte) any {
	n := neighbour{
		ifindex: int(int32(binary.NativeEndian.Uint32(h[4:]))),
		state:   binary.NativeEndian.Uint16(h[8:]),
	}
	bridge := 0
	for typ, value := range attrs(attributes) {
		switch typ {
		case unix.NDA_DST:
			n.addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			n.mac = mac(value)
		case unix.NDA_MASTER:
			bridge = int(number(value))
		}
	}
	flags := h[10]
	switch {
	case h[0] == unix.AF_BRIDGE:
		return parseFDB(n, flags, bridge)
	case flags&unix.NTF_PROXY != 0 || !n.addr.IsValid():
		return nil
	case n.state&nudValid == 0:
		n.mac = topology.MAC{}
	}
	return n
}

// parseFDB reads the entry n of a bridge's FDB. Entries of a device's own
// filter (NTF_SELF) are none. NUD_PERMANENT is how the bridge marks its own MACs.
func parseFDB(n neighbour, flags uint8, bridge int) any {
	if flags&unix.NTF_SELF != 0 || bridge == 0 || n.mac == (topology.MAC{}) {
		return nil
	}
	e := fdbEntry{bridge: bridge, mac: n.mac, port: n.ifindex}
	if n.state&unix.NUD_PERMANENT != 0 {
		e.port = 0
	}
	return e
}

// attrs walks netlink attributes (struct nlattr: length, type, value, padding to
// four bytes) and stops at the first that does not fit.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	const header, typeMask = unix.SizeofNlAttr, ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= header {
			length := int(binary.NativeEndian.Uint16(b))
			if length < header || length > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[header:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func text(b []byte) string {
	return string(bytes.TrimRight(b, "\x00"))
}

// mac is the zero MAC where b is no Ethernet address.
func mac(b []byte) (m topology.MAC) {
	if len(b) == len(m) {
		copy(m[:], b)
	}
	return m
}
