// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Route is what the kernel tells of a route.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr // of either family (RTA_VIA); the zero Addr for none
	Src     netip.Addr // of this node, preferred; the zero Addr for none
	Ifindex int
	Metric  int
	MTU     int // configured or learnt, bytes; 0 where it is the device's
	// TunnelSrc and TunnelDst are the outer addresses of a route into a tunnel over IPv6 (TunnelIP6); zero for none.
	TunnelSrc, TunnelDst netip.Addr
	Protocol             byte
	Table                byte
	Type                 byte
	Flags                uint32
}

// LWTUNNEL_ENCAP_IP6 and, of enum lwtunnel_ip6_t, the attributes with the outer
// addresses: include/uapi/linux/lwtunnel.h.
const (
	TunnelIP6    = 4
	TunnelIP6Dst = 2
	TunnelIP6Src = 3
)

// ParseRoute reads an RTM_NEWROUTE, as far as it can be read; ok is whether it is one.
func ParseRoute(msg []byte) (r Route, ok bool) {
	if len(msg) < unix.SizeofRtMsg || msg[0] != unix.AF_INET && msg[0] != unix.AF_INET6 {
		return r, false
	}
	dst := netip.IPv4Unspecified()
	if msg[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	r = Route{Table: msg[4], Protocol: msg[5], Type: msg[7], Flags: binary.NativeEndian.Uint32(msg[8:])}
	Attributes(msg, unix.SizeofRtMsg, func(kind uint16, data []byte) {
		switch {
		case kind == unix.RTA_DST:
			dst = Addr(data)
		case kind == unix.RTA_GATEWAY:
			r.Gateway = Addr(data)
		case kind == unix.RTA_VIA && len(data) > 2: // behind the family
			r.Gateway = Addr(data[2:])
		case kind == unix.RTA_MULTIPATH && len(data) >= unix.SizeofRtNexthop: // the first is taken for all
			r.Ifindex = int(binary.NativeEndian.Uint32(data[4:]))
		case kind == unix.RTA_PREFSRC:
			r.Src = Addr(data)
		case kind == unix.RTA_METRICS:
			Attributes(data, 0, func(kind uint16, data []byte) {
				if kind == unix.RTAX_MTU && len(data) == 4 {
					r.MTU = int(binary.NativeEndian.Uint32(data))
				}
			})
		case kind == unix.RTA_ENCAP:
			Attributes(data, 0, func(kind uint16, data []byte) {
				switch {
				case len(data) != 16: // another kind of tunnel, whose attributes have other meanings
				case kind == TunnelIP6Dst:
					r.TunnelDst = Addr(data)
				case kind == TunnelIP6Src:
					r.TunnelSrc = Addr(data)
				}
			})
		case len(data) != 4:
		case kind == unix.RTA_OIF:
			r.Ifindex = int(binary.NativeEndian.Uint32(data))
		case kind == unix.RTA_PRIORITY:
			r.Metric = int(binary.NativeEndian.Uint32(data))
		}
	})
	r.Dst = netip.PrefixFrom(dst, int(msg[1]))
	return r, true
}

// Routes lists those routes of a family (unix.AF_*) in the main table that are
// to be kept. It takes a hundredth of the memory, and a tenth of the time, that a
// netlink.Handle does, which matters where the routes are those of a large cluster.
func (c *Conn) Routes(family int, keep func(Route) bool) ([]Route, error) {
	return List("routes", func() (found []Route, err error) {
		header := make([]byte, unix.SizeofRtMsg)
		header[0] = byte(family)
		err = c.Request(unix.RTM_GETROUTE, 0, header...).Dump(func(msg []byte) {
			r, ok := ParseRoute(msg)
			if ok && r.Table == unix.RT_TABLE_MAIN && r.Flags&unix.RTM_F_CLONED == 0 && keep(r) {
				found = append(found, r)
			}
		})
		return found, err
	})
}
