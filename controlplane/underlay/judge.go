// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"encoding/binary"

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
}

func (s *suspects) suspect(ifindex int) {
	if s.links == nil {
		s.links = map[int]bool{}
	}
	s.links[ifindex] = true
}

// add takes in one message. What cannot be read counts as a change.
func (s *suspects) add(kind uint16, data []byte) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		s.addLink(kind, data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		s.addAddr(data)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		s.addRoute(kind, data)
	case unix.RTM_NEWNEXTHOP:
		s.certain = s.certain || len(data) < unix.SizeofNhmsg || data[2] != dataplane.RouteProtocol // struct nhmsg, nh_protocol
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

// addAddr: the label of an IPv4 address starts with its device's name.
func (s *suspects) addAddr(data []byte) {
	attrs := attributes(data, unix.SizeofIfAddrmsg)
	s.certain = s.certain || !dataplane.IsOverlay(unix.ByteSliceToString(attrs[unix.IFA_LABEL]))
}

// addRoute: the table of local addresses says what the addresses said already;
// a route to one host without a gateway may be a container's. That a route of
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
	case msg.Dst_len == 32 && gateway == nil && len(oif) == 4:
		s.suspect(int(binary.NativeEndian.Uint32(oif)))
	default:
		s.certain = true
	}
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
	return false
}

// underlay reports whether a link may carry the underlay: any with an address,
// and without one any but a veth or a bridge. The host's end of a container's
// veth has none: it is the port of a bridge, or routed to.
func (j *judge) underlay(ifindex int) bool {
	link, err := j.LinkByIndex(ifindex)
	if err != nil {
		return false // gone again
	}
	if !mayBeContainers(link.Type()) {
		return true
	}
	addrs, err := j.AddrList(link, unix.AF_INET)
	return err != nil || len(addrs) > 0
}
