// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
)

// linkMessage is an RTM_NEWLINK as the kernel lays it out.
func linkMessage(family, index int, flags uint32, name, kind string) []byte {
	msg := nl.NewIfInfomsg(family)
	msg.Index, msg.Flags = int32(index), flags
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.ZeroTerminated(kind))
	return append(append(msg.Serialize(), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).Serialize()...), info.Serialize()...)
}

func routeMessage(protocol, table, bits uint8, attrs ...*nl.RtAttr) []byte {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Protocol: protocol, Table: table, Dst_len: bits}}
	b := msg.Serialize()
	for _, a := range attrs {
		b = append(b, a.Serialize()...)
	}
	return b
}

// neighbourMessage is struct ndmsg (include/uapi/linux/neighbour.h) on a little-endian machine.
func neighbourMessage(index, state byte) []byte {
	return []byte{unix.AF_INET, 0, 0, 0, index, 0, 0, 0, state, 0, 0, 0}
}

func addrMessage(label string) []byte {
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	return append(msg.Serialize(), nl.NewRtAttr(unix.IFA_LABEL, nl.ZeroTerminated(label)).Serialize()...)
}

func addr6Message(addr string, scope uint8, flags uint32) []byte {
	msg := nl.NewIfAddrmsg(unix.AF_INET6)
	msg.Index, msg.Scope, msg.Prefixlen = 7, scope, 64
	b := append(msg.Serialize(), nl.NewRtAttr(unix.IFA_ADDRESS, netip.MustParseAddr(addr).AsSlice()).Serialize()...)
	return append(b, nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)).Serialize()...)
}

// TestSuspectsOfRouters: what a router's advertisement tells again is no
// change, but that the address is to be used no more is.
func TestSuspectsOfRouters(t *testing.T) {
	known := addresses{}
	for i, tc := range []struct {
		kind  uint16
		flags uint32
		want  bool
	}{
		{unix.RTM_NEWADDR, unix.IFA_F_TENTATIVE, true}, {unix.RTM_NEWADDR, 0, true}, {unix.RTM_NEWADDR, 0, false},
		{unix.RTM_NEWADDR, unix.IFA_F_DEPRECATED, true}, {unix.RTM_NEWADDR, unix.IFA_F_DEPRECATED, false},
		{unix.RTM_DELADDR, 0, true}, {unix.RTM_NEWADDR, 0, true}, {unix.RTM_NEWADDR, 0, false},
	} {
		var s suspects
		s.add(known, tc.kind, addr6Message("2001:db8::1", unix.RT_SCOPE_UNIVERSE, tc.flags))
		if got := s.certain || s.links[7]; got != tc.want {
			t.Errorf("announcement %d counts: %t, want %t", i, got, tc.want)
		}
	}
}

func TestSuspects(t *testing.T) {
	oif := nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(7))
	host4 := nl.NewRtAttr(unix.RTA_DST, []byte{172, 245, 0, 2})
	dst6 := func(s string) *nl.RtAttr { return nl.NewRtAttr(unix.RTA_DST, netip.MustParseAddr(s).AsSlice()) }
	gateway := nl.NewRtAttr(unix.RTA_GATEWAY, []byte{192, 168, 32, 1})
	const up = unix.IFF_UP
	for name, tc := range map[string]struct {
		kind    uint16
		data    []byte
		certain bool
		link    int
		lost    int
	}{
		"Ethernet link":         {unix.RTM_NEWLINK, linkMessage(0, 2, up, "eth0", ""), false, 2, 0},
		"bond goes":             {unix.RTM_DELLINK, linkMessage(0, 2, up, "bond0", "bond"), true, 0, 0},
		"veth":                  {unix.RTM_NEWLINK, linkMessage(0, 7, up, "veth1", "veth"), false, 7, 0},
		"veth goes":             {unix.RTM_DELLINK, linkMessage(0, 7, up, "veth1", "veth"), false, 0, 0},
		"bridge about its port": {unix.RTM_NEWLINK, linkMessage(unix.AF_BRIDGE, 7, up, "eth1", ""), false, 0, 0},
		"overlay up":            {unix.RTM_NEWLINK, linkMessage(0, 9, up, "bpfnet0", "vxlan"), false, 0, 0},
		"overlay down":          {unix.RTM_NEWLINK, linkMessage(0, 9, 0, "bpfnet0", "vxlan"), true, 0, 0},
		"overlay goes":          {unix.RTM_DELLINK, linkMessage(0, 9, up, "bpfnet0", "vxlan"), true, 0, 0},
		"overlay's peer down":   {unix.RTM_NEWLINK, linkMessage(0, 9, 0, "bpfnet0p", "veth"), true, 0, 0},
		"address":               {unix.RTM_NEWADDR, addrMessage("eth0:1"), true, 0, 0},
		"overlay's address":     {unix.RTM_NEWADDR, addrMessage("bpfnet0"), false, 0, 0},
		"default route":         {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_BOOT, unix.RT_TABLE_MAIN, 0, oif, gateway), true, 0, 0},
		"host route by router":  {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_BOOT, unix.RT_TABLE_MAIN, 32, oif, gateway), true, 0, 0},
		"network on a link":     {unix.RTM_DELROUTE, routeMessage(unix.RTPROT_KERNEL, unix.RT_TABLE_MAIN, 24, oif), true, 0, 0},
		"container's route":     {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_BOOT, unix.RT_TABLE_MAIN, 32, oif, host4), false, 7, 0},
		"local table":           {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_KERNEL, unix.RT_TABLE_LOCAL, 32, oif), false, 0, 0},
		"overlay's route":       {unix.RTM_NEWROUTE, routeMessage(0x62, unix.RT_TABLE_MAIN, 24, oif, gateway), false, 0, 0},
		"overlay's route goes":  {unix.RTM_DELROUTE, routeMessage(0x62, unix.RT_TABLE_MAIN, 24, oif, gateway), true, 0, 0},
		"device default route":  {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_BOOT, unix.RT_TABLE_MAIN, 0, oif), true, 0, 0},
		"IPv6 address":          {unix.RTM_NEWADDR, addr6Message("2001:db8::1", unix.RT_SCOPE_UNIVERSE, 0), false, 7, 0},
		"IPv6 address goes":     {unix.RTM_DELADDR, addr6Message("2001:db8::1", unix.RT_SCOPE_UNIVERSE, 0), true, 0, 0},
		"link-local address":    {unix.RTM_NEWADDR, addr6Message("fe80::1", unix.RT_SCOPE_LINK, 0), false, 0, 0},
		"IPv6 network":          {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_KERNEL, unix.RT_TABLE_MAIN, 64, oif, dst6("2001:db8::")), true, 0, 0},
		"container's IPv6":      {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_BOOT, unix.RT_TABLE_MAIN, 128, oif, dst6("fc00::2")), false, 7, 0},
		"link-local network":    {unix.RTM_NEWROUTE, routeMessage(unix.RTPROT_KERNEL, unix.RT_TABLE_MAIN, 64, oif, dst6("fe80::")), false, 0, 0},
		"routing rule":          {unix.RTM_NEWRULE, nil, true, 0, 0},
		"next hop object":       {unix.RTM_NEWNEXTHOP, []byte{unix.AF_INET, 0, unix.RTPROT_BOOT, 0, 0, 0, 0, 0}, true, 0, 0},
		"next hop object, odd":  {unix.RTM_NEWNEXTHOP, nil, true, 0, 0},
		"our next hop object":   {unix.RTM_NEWNEXTHOP, []byte{unix.AF_INET, 0, dataplane.RouteProtocol, 0, 0, 0, 0, 0}, false, 0, 0},
		"our next hop goes":     {unix.RTM_DELNEXTHOP, []byte{unix.AF_INET, 0, dataplane.RouteProtocol, 0, 0, 0, 0, 0}, true, 0, 0},
		"neighbour":             {unix.RTM_NEWNEIGH, neighbourMessage(9, unix.NUD_PERMANENT), false, 0, 0},
		"neighbour fails":       {unix.RTM_NEWNEIGH, neighbourMessage(9, unix.NUD_FAILED), false, 0, 9},
		"neighbour goes":        {unix.RTM_DELNEIGH, neighbourMessage(9, unix.NUD_FAILED), false, 0, 0},
		"neighbour, odd":        {unix.RTM_NEWNEIGH, nil, true, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var s suspects
			s.add(addresses{}, tc.kind, tc.data)
			if s.certain != tc.certain {
				t.Errorf("certain is %t, want %t", s.certain, tc.certain)
			}
			if tc.link == 0 && len(s.links) != 0 || tc.link != 0 && !s.links[tc.link] {
				t.Errorf("suspects %v, want %d", s.links, tc.link)
			}
			if tc.lost == 0 && len(s.lost) != 0 || tc.lost != 0 && !s.lost[tc.lost] {
				t.Errorf("lost neighbours of %v, want %d", s.lost, tc.lost)
			}
		})
	}
}

func FuzzSuspects(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), linkMessage(0, 2, 1, "eth0", "veth"))
	f.Add(uint16(unix.RTM_NEWADDR), addrMessage("bpfnet0"))
	f.Add(uint16(unix.RTM_NEWADDR), addr6Message("2001:db8::1", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_DEPRECATED))
	f.Add(uint16(unix.RTM_NEWROUTE), routeMessage(3, 254, 32, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(7))))
	f.Fuzz(func(_ *testing.T, kind uint16, data []byte) {
		var s suspects
		s.add(addresses{}, kind, data)
	})
}
