// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

var native = binary.NativeEndian // of rtnetlink's numbers, but those that are addresses

// neighbour is an entry of the neighbour table, or of a device's FDB: then its
// address is that of the node which the MAC is behind.
type neighbour struct {
	mac  topology.MAC
	addr netip.Addr
}

// writeNeighbour asks for a change of a permanent entry; family is AF_BRIDGE for the FDB.
func (k kernel) writeNeighbour(kind, flags uint16, family, ifindex int, n neighbour) error {
	self := byte(0)
	if family == unix.AF_BRIDGE {
		self = netlink.NTF_SELF
	}
	header := ndmsg(family, ifindex, netlink.NUD_PERMANENT, self)
	return k.conn.Request(kind, flags, header...).Attr(unix.NDA_DST, n.addr.AsSlice()...).Attr(unix.NDA_LLADDR, n.mac[:]...).Do()
}

// ndmsg is struct ndmsg of include/uapi/linux/neighbour.h.
func ndmsg(family, ifindex int, state uint16, flags byte) []byte {
	b := native.AppendUint32([]byte{byte(family), 0, 0, 0}, uint32(ifindex))
	return append(native.AppendUint16(b, state), flags, 0)
}

// listNeighbours lists a device's permanent entries. what is for the error.
func (k kernel) listNeighbours(what string, family, ifindex int) ([]neighbour, error) {
	return rtnl.List(what, func() (found []neighbour, err error) {
		request := k.conn.Request(unix.RTM_GETNEIGH, 0, ndmsg(family, 0, 0, 0)...).Uint32(unix.NDA_IFINDEX, uint32(ifindex))
		if family == unix.AF_BRIDGE {
			// By struct ifinfomsg the kernel chooses a device here (valid_fdb_dump_legacy, net/core/rtnetlink.c).
			header := make([]byte, unix.SizeofIfInfomsg)
			header[0] = byte(family)
			native.PutUint32(header[4:], uint32(ifindex))
			request = k.conn.Request(unix.RTM_GETNEIGH, 0, header...)
		}
		err = request.Dump(func(msg []byte) {
			if len(msg) < unix.SizeofNdMsg || int(msg[0]) != family || int(native.Uint32(msg[4:])) != ifindex ||
				native.Uint16(msg[8:])&netlink.NUD_PERMANENT == 0 {
				return
			}
			var n neighbour
			rtnl.Attributes(msg, unix.SizeofNdMsg, func(kind uint16, data []byte) {
				switch kind {
				case unix.NDA_DST:
					n.addr = rtnl.Addr(data)
				case unix.NDA_LLADDR:
					n.mac = macOf(data)
				}
			})
			found = append(found, n)
		})
		return found, err
	})
}

// writeRoute asks for a change of the main table.
func (k kernel) writeRoute(kind, flags uint16, r route, a attrs) error {
	// struct rtmsg of include/uapi/linux/rtnetlink.h
	header := []byte{unix.AF_INET, byte(r.dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, r.protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}
	if r.dst.Addr().Is6() {
		header[0] = unix.AF_INET6
	}
	request := k.conn.Request(kind, flags, native.AppendUint32(header, unix.RTNH_F_ONLINK)...).
		Attr(unix.RTA_DST, r.dst.Addr().AsSlice()...).Uint32(unix.RTA_OIF, uint32(r.ifindex))
	if r.gateway.IsValid() {
		request.Attr(unix.RTA_GATEWAY, r.gateway.AsSlice()...)
	}
	if a.ends.valid() {
		request.Attr(unix.RTA_ENCAP, a.ends.encap()...).Attr(unix.RTA_ENCAP_TYPE, native.AppendUint16(nil, rtnl.TunnelIP6)...)
	}
	if r.metric != 0 {
		request.Uint32(unix.RTA_PRIORITY, uint32(r.metric))
	}
	if a.mtu != 0 {
		metrics := native.AppendUint16(native.AppendUint16(nil, unix.SizeofNlAttr+4), unix.RTAX_MTU)
		request.Attr(unix.RTA_METRICS, native.AppendUint32(metrics, uint32(a.mtu))...)
	}
	return request.Do()
}

// encap are the attributes of a route's encapsulation. The hop limit, not given, is the
// packet's own (ip6_tnl_xmit(), net/ipv6/ip6_tunnel.c), as is the ECN field.
func (e ends) encap() (b []byte) {
	for _, a := range []struct {
		kind uint16
		addr netip.Addr
	}{{rtnl.TunnelIP6Dst, e.remote}, {rtnl.TunnelIP6Src, e.local}} {
		b = rtnl.AppendAttr(b, a.kind, a.addr.AsSlice())
	}
	return b
}
