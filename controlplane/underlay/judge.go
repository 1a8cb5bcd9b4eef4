// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// suspects is what a burst of announcements comes to. On a busy node most
// concern containers, and working out every path again for them would be waste.
type suspects struct {
	certain bool         // something of the underlay changed
	links   map[int]bool // or it did if one of these is a link of the underlay
	lost    map[int]bool // interfaces that lost a neighbour: it matters if one is the overlay
}

func (s *suspects) suspect(ifindex int) {
	if s.links == nil {
		s.links = map[int]bool{}
	}
	s.links[ifindex] = true
}

// addresses are IPv6 addresses with their flags (IFA_F_*), by interface and address.
type addresses map[string]uint32

// add takes in one message. What cannot be read counts as a change.
func (s *suspects) add(known addresses, kind uint16, data []byte) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		s.addLink(kind, data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		s.addAddr(known, kind, data)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		s.addRoute(kind, data)
	case unix.RTM_NEWNEXTHOP:
		s.certain = s.certain || len(data) < unix.SizeofNhmsg || data[2] != dataplane.RouteProtocol // struct nhmsg, nh_protocol
	case unix.RTM_NEWNEIGH:
		s.addNeighbour(data)
	case unix.RTM_DELNEIGH:
	default:
		s.certain = true
	}
}

// addLink: a container's link that is gone had no address, and any other's
// addresses went with it, each announced. The overlay device matters when it is
// not up, for then its routes are gone, which is not announced.
func (s *suspects) addLink(kind uint16, data []byte) {
	if len(data) < unix.SizeofIfInfomsg || data[0] == unix.AF_BRIDGE { // a bridge about its port
		return
	}
	msg := nl.DeserializeIfInfomsg(data)
	attrs := attributes(data, unix.SizeofIfInfomsg)
	info := attributes(attrs[unix.IFLA_LINKINFO], 0)
	switch {
	case dataplane.IsOverlay(unix.ByteSliceToString(attrs[unix.IFLA_IFNAME])):
		s.certain = s.certain || kind == unix.RTM_DELLINK || msg.Flags&unix.IFF_UP == 0
	case kind == unix.RTM_NEWLINK:
		s.suspect(int(msg.Index))
	case !mayBeContainers(unix.ByteSliceToString(info[unix.IFLA_INFO_KIND])):
		s.certain = true
	}
}

// mayBeContainers tells by the kind of a link whether it is one that containers
// come with; a node's uplink may be of that kind too.
func mayBeContainers(kind string) bool { return kind == "veth" || kind == "bridge" }

// addAddr: the label of an IPv4 address starts with its device's name; those of
// IPv6 have none.
func (s *suspects) addAddr(known addresses, kind uint16, data []byte) {
	attrs := attributes(data, unix.SizeofIfAddrmsg)
	if len(data) >= unix.SizeofIfAddrmsg && data[0] == unix.AF_INET6 {
		s.addAddr6(known, kind, nl.DeserializeIfAddrmsg(data), attrs)
		return
	}
	s.certain = s.certain || !dataplane.IsOverlay(unix.ByteSliceToString(attrs[unix.IFA_LABEL]))
}

// addAddr6: every interface has a link-local address, which leads nowhere. Each
// advertisement of a router announces the address made of its prefix again, with
// another life.
func (s *suspects) addAddr6(known addresses, kind uint16, msg *nl.IfAddrmsg, attrs map[uint16][]byte) {
	if msg.Scope != unix.RT_SCOPE_UNIVERSE {
		return
	}
	key := fmt.Sprintf("%d %x", msg.Index, attrs[unix.IFA_ADDRESS])
	if kind == unix.RTM_DELADDR {
		delete(known, key)
		s.certain = true
		return
	}
	flags := uint32(msg.Flags)
	if wide := attrs[unix.IFA_FLAGS]; len(wide) == 4 {
		flags = binary.NativeEndian.Uint32(wide)
	}
	if before, there := known[key]; there && before == flags {
		return
	}
	known[key] = flags
	s.suspect(int(msg.Index))
}

// addRoute: the table of local addresses says what the addresses said already;
// a route to one host without a gateway may be a container's, and each interface
// has one to its link-local addresses. That a route of
// ours is gone matters, for others may have removed it.
func (s *suspects) addRoute(kind uint16, data []byte) {
	if len(data) < unix.SizeofRtMsg {
		s.certain = true
		return
	}
	msg := nl.DeserializeRtMsg(data)
	attrs := attributes(data, unix.SizeofRtMsg)
	oif, gateway := attrs[unix.RTA_OIF], attrs[unix.RTA_GATEWAY]
	switch {
	case msg.Protocol == dataplane.RouteProtocol:
		s.certain = s.certain || kind == unix.RTM_DELROUTE
	case msg.Table == unix.RT_TABLE_LOCAL, msg.Flags&unix.RTM_F_CLONED != 0:
	case linkLocal(attrs[unix.RTA_DST]):
	case msg.Dst_len > 0 && int(msg.Dst_len) == 8*len(attrs[unix.RTA_DST]) && gateway == nil && len(oif) == 4:
		s.suspect(int(binary.NativeEndian.Uint32(oif)))
	default:
		s.certain = true
	}
}

func linkLocal(dst []byte) bool {
	a, _ := netip.AddrFromSlice(dst)
	return a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast())
}

// addNeighbour: that a peer's is gone matters, for others may have removed it. Who
// did is known only of the failure that goes before (neigh_delete in
// net/core/neighbour.c), and of FDB entries never.
func (s *suspects) addNeighbour(data []byte) {
	if len(data) < unix.SizeofNdMsg {
		s.certain = true
		return
	}
	if state := binary.NativeEndian.Uint16(data[8:]); data[0] == unix.AF_BRIDGE || state != unix.NUD_FAILED { // struct ndmsg
		return
	}
	if s.lost == nil {
		s.lost = map[int]bool{}
	}
	s.lost[int(int32(binary.NativeEndian.Uint32(data[4:])))] = true
}

// attributes returns the attributes behind a header by type, as far as they can be read.
func attributes(data []byte, header int) map[uint16][]byte {
	found := map[uint16][]byte{}
	rtnl.Attributes(data, header, func(kind uint16, value []byte) { found[kind] = value })
	return found
}

// judge tells containers' links from those of the underlay.
type judge struct{ *netlink.Handle }

func newJudge() (*judge, error) {
	h, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	return &judge{h}, nil
}

func (j *judge) matters(s suspects) bool {
	if s.certain {
		return true
	}
	for ifindex := range s.links {
		if j.underlay(ifindex) {
			return true
		}
	}
	for ifindex := range s.lost {
		if link, err := j.LinkByIndex(ifindex); err == nil && dataplane.IsOverlay(link.Attrs().Name) {
			return true
		}
	}
	return false
}

// underlay reports whether a link may carry the underlay: any with an address
// that others could reach, and without one any but a veth or a bridge. The host's end of a container's
// veth has none: it is the port of a bridge, or routed to. The overlay does not count.
func (j *judge) underlay(ifindex int) bool {
	link, err := j.LinkByIndex(ifindex)
	if err != nil {
		return false // gone again
	}
	if dataplane.IsOverlay(link.Attrs().Name) {
		return false
	}
	if !mayBeContainers(link.Type()) {
		return true
	}
	addrs, err := j.AddrList(link, unix.AF_UNSPEC)
	return err != nil || slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return a.IP.To4() != nil || !a.IP.IsLinkLocalUnicast()
	})
}
