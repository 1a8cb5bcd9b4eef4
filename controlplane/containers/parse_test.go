// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

var native = binary.NativeEndian

// attr is a netlink attribute, padded as the kernel pads it.
func attr(typ uint16, value ...byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
	b = append(native.AppendUint16(b, typ), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func attr32(typ uint16, value uint32) []byte {
	return attr(typ, native.AppendUint32(nil, value)...)
}

func ifinfomsg(family byte, ifindex, flags uint32) []byte {
	b := append([]byte{family, 0, 0, 0}, native.AppendUint32(nil, ifindex)...)
	return append(native.AppendUint32(b, flags), 0xff, 0xff, 0xff, 0xff)
}

func ifaddrmsg(family byte, ifindex uint32) []byte {
	return native.AppendUint32([]byte{family, 24, 0, 0}, ifindex)
}

func rtmsg(family, length, tos, table, typ byte, flags uint32) []byte {
	return native.AppendUint32([]byte{family, length, 0, tos, table, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, typ}, flags)
}

func rtnexthop(ifindex uint32, attributes ...byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofRtNexthop+len(attributes)))
	return append(native.AppendUint32(append(b, 0, 0), ifindex), attributes...)
}

func ndmsg(family byte, ifindex uint32, state uint16, flags byte) []byte {
	b := native.AppendUint32([]byte{family, 0, 0, 0}, ifindex)
	return append(native.AppendUint16(b, state), flags, unix.RTN_UNICAST)
}

func TestParse(t *testing.T) {
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	var (
		addr4 = ipA.AsSlice()
		addr6 = netip.MustParseAddr("2001:db8:42:1::2").AsSlice()
		dst   = attr(unix.RTA_DST, addr4...)
		oif   = attr32(unix.RTA_OIF, 20)
		main4 = rtmsg(unix.AF_INET, 32, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0)
		info  = attr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, attr(unix.IFLA_INFO_KIND, []byte("veth\x00")...)...)
		nda   = attr(unix.NDA_DST, addr4...)
		mac   = attr(unix.NDA_LLADDR, macA[:]...)
		br    = attr32(unix.NDA_MASTER, 1)
	)
	tests := map[string]struct {
		typ   uint16
		parts [][]byte
		want  any // nil: of no interest
	}{
		"link": {typ: unix.RTM_NEWLINK, parts: [][]byte{ifinfomsg(0, 10, up), attr(unix.IFLA_IFNAME, []byte("veth10\x00")...),
			attr(unix.IFLA_ADDRESS, macHost[:]...), attr32(unix.IFLA_MASTER, 1), attr32(unix.IFLA_LINK_NETNSID, 0), info},
			want: link{10, "veth10", "veth", macHost, 1, true, true, true}},
		"link down":             {typ: unix.RTM_NEWLINK, parts: [][]byte{ifinfomsg(0, 10, 0)}, want: link{ifindex: 10}},
		"link without carrier":  {typ: unix.RTM_NEWLINK, parts: [][]byte{ifinfomsg(0, 10, unix.IFF_UP)}, want: link{ifindex: 10, up: true}},
		"link of no Ethernet":   {typ: unix.RTM_NEWLINK, parts: [][]byte{ifinfomsg(0, 10, 0), attr(unix.IFLA_ADDRESS, addr4...)}, want: link{ifindex: 10}},
		"link gone":             {typ: unix.RTM_DELLINK, parts: [][]byte{ifinfomsg(0, 10, 0)}, want: link{ifindex: 10}},
		"port left its bridge":  {typ: unix.RTM_DELLINK, parts: [][]byte{ifinfomsg(unix.AF_BRIDGE, 10, up)}},
		"address":               {typ: unix.RTM_NEWADDR, parts: [][]byte{ifaddrmsg(unix.AF_INET, 1), attr(unix.IFA_ADDRESS, addr4...)}, want: localAddr{1, ipA, netip.PrefixFrom(ipA, 24)}},
		"address, IPv6":         {typ: unix.RTM_NEWADDR, parts: [][]byte{ifaddrmsg(unix.AF_INET6, 1), attr(unix.IFA_ADDRESS, addr6...)}, want: localAddr{ifindex: 1, addr: netip.AddrFrom16([16]byte(addr6))}},
		"address with a peer":   {typ: unix.RTM_DELADDR, parts: [][]byte{ifaddrmsg(unix.AF_INET, 1), attr(unix.IFA_ADDRESS, ipB.AsSlice()...), attr(unix.IFA_LOCAL, addr4...)}, want: localAddr{1, ipA, netip.PrefixFrom(ipB, 24)}},
		"peer after address":    {typ: unix.RTM_NEWADDR, parts: [][]byte{ifaddrmsg(unix.AF_INET, 1), attr(unix.IFA_LOCAL, addr4...), attr(unix.IFA_ADDRESS, ipB.AsSlice()...)}, want: localAddr{1, ipA, netip.PrefixFrom(ipB, 24)}},
		"address of odd length": {typ: unix.RTM_NEWADDR, parts: [][]byte{ifaddrmsg(unix.AF_INET, 1), attr(unix.IFA_LOCAL, 1, 2, 3)}},

		"host route":                  {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, oif}, want: hostRoute{addr: ipA, ifindex: 20, onLink: true}},
		"host route, metric":          {typ: unix.RTM_DELROUTE, parts: [][]byte{main4, dst, oif, attr32(unix.RTA_PRIORITY, 7)}, want: hostRoute{addr: ipA, ifindex: 20, metric: 7, onLink: true}},
		"host route, source":          {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, oif, attr(unix.RTA_PREFSRC, ipBridge.AsSlice()...)}, want: hostRoute{addr: ipA, ifindex: 20, onLink: true, source: ipBridge}},
		"host route, gateway":         {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, oif, attr(unix.RTA_GATEWAY, ipB.AsSlice()...)}, want: hostRoute{addr: ipA, ifindex: 20}},
		"host route, next hop object": {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, oif, attr32(rtaNHID, 1)}, want: hostRoute{addr: ipA, ifindex: 20, onLink: true, object: true}},
		"next hop object":             {typ: unix.RTM_DELNEXTHOP, parts: [][]byte{make([]byte, unix.SizeofNhmsg)}, want: nextHop{}},
		"host route, multipath": {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, attr(unix.RTA_MULTIPATH, slices.Concat(rtnexthop(20), rtnexthop(21, attr(unix.RTA_GATEWAY, addr4...)...), []byte{3})...)},
			want: hostRoute{addr: ipA, several: hops(20, 21)}},
		"host route, scope host": {typ: unix.RTM_NEWROUTE, parts: [][]byte{slices.Replace(slices.Clone(main4), 6, 7, unix.RT_SCOPE_HOST), dst, oif},
			want: hostRoute{addr: ipA, ifindex: 20, onLink: true, lasting: true}},
		"host route, IPv6 gateway": {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, oif, attr(unix.RTA_VIA, append([]byte{unix.AF_INET6, 0}, addr6...)...)},
			want: hostRoute{addr: ipA, ifindex: 20}},
		"host route, blackhole": {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET, 32, 0, unix.RT_TABLE_MAIN, unix.RTN_BLACKHOLE, 0), dst}, want: hostRoute{addr: ipA}},
		"host route, IPv6":      {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET6, 128, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0), attr(unix.RTA_DST, addr6...), oif}, want: hostRoute{addr: netip.AddrFrom16([16]byte(addr6)), ifindex: 20, onLink: true}},
		"host route, IPv6 source": {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET6, 128, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0), attr(unix.RTA_DST, addr6...), oif, attr(unix.RTA_PREFSRC, addr6...)},
			want: hostRoute{addr: netip.AddrFrom16([16]byte(addr6)), ifindex: 20, onLink: true}},
		"table in the attribute": {typ: unix.RTM_NEWROUTE, parts: [][]byte{main4, dst, oif, attr32(unix.RTA_TABLE, 1000)}},
		"local table":            {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET, 32, 0, unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, 0), dst, oif}},
		"subnet route":           {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET, 24, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0), dst, oif}},
		"route of one TOS":       {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET, 32, 8, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0), dst, oif}},
		"cached route":           {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET, 32, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, unix.RTM_F_CLONED), dst, oif}},
		"default route":          {typ: unix.RTM_NEWROUTE, parts: [][]byte{rtmsg(unix.AF_INET, 0, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0), oif}},

		"neighbour":                {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_INET, 1, unix.NUD_STALE, 0), nda, mac}, want: neighbour{1, ipA, macA, unix.NUD_STALE}},
		"neighbour gone":           {typ: unix.RTM_DELNEIGH, parts: [][]byte{ndmsg(unix.AF_INET, 1, unix.NUD_STALE, 0), nda, mac}, want: neighbour{1, ipA, macA, unix.NUD_STALE}},
		"neighbour failed":         {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_INET, 1, unix.NUD_FAILED, 0), nda, mac}, want: neighbour{ifindex: 1, addr: ipA, state: unix.NUD_FAILED}},
		"neighbour proxied":        {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_INET, 1, unix.NUD_STALE, unix.NTF_PROXY), nda, mac}},
		"neighbour without addr":   {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_INET, 1, unix.NUD_STALE, 0), mac}},
		"FDB entry":                {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_REACHABLE, 0), mac, br}, want: fdbEntry{1, macA, 10}},
		"FDB entry, static":        {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_NOARP, 0), mac, br}, want: fdbEntry{1, macA, 10}},
		"FDB entry gone":           {typ: unix.RTM_DELNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_STALE, 0), mac, br}, want: fdbEntry{1, macA, 10}},
		"FDB entry, bridge's own":  {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_PERMANENT, 0), mac, br}, want: fdbEntry{1, macA, 0}},
		"FDB entry, device's own":  {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_PERMANENT, unix.NTF_SELF), mac, br}},
		"FDB entry without bridge": {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_REACHABLE, 0), mac}},
		"FDB entry of no MAC":      {typ: unix.RTM_NEWNEIGH, parts: [][]byte{ndmsg(unix.AF_BRIDGE, 10, unix.NUD_REACHABLE, 0), br}},

		"another message": {typ: unix.RTM_NEWQDISC, parts: [][]byte{make([]byte, 64)}},
		"nothing":         {typ: unix.RTM_NEWLINK},
		"short header":    {typ: unix.RTM_NEWNEIGH, parts: [][]byte{make([]byte, unix.SizeofNdMsg-1)}},
	}
	records := []cmp.Option{cmp.AllowUnexported(link{}, localAddr{}, hostRoute{}, neighbour{}, fdbEntry{}), compare[0]}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			data := slices.Concat(test.parts...)
			e, ok := parse(test.typ, data)
			if ok != (test.want != nil) {
				t.Errorf("of interest: %v, want %v", ok, test.want != nil)
			}
			if diff := cmp.Diff(test.want, e.record, records...); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			if wantGone := messages[test.typ].gone; ok && e.gone != wantGone {
				t.Errorf("gone: %v, want %v", e.gone, wantGone)
			}
			for i := range data { // the kernel never sends half a message; a bug must not take us down
				parse(test.typ, data[:i])
			}
		})
	}
}

// FuzzParse holds that no message makes parse panic or invent an address.
func FuzzParse(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWNEIGH), slices.Concat(ndmsg(unix.AF_INET, 1, unix.NUD_STALE, 0),
		attr(unix.NDA_DST, ipA.AsSlice()...), attr(unix.NDA_LLADDR, macA[:]...)))
	f.Add(uint16(unix.RTM_NEWLINK), slices.Concat(ifinfomsg(0, 10, 0), attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, 'v')...)))
	f.Add(uint16(unix.RTM_NEWROUTE), slices.Concat(rtmsg(unix.AF_INET, 32, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, 0),
		attr(unix.RTA_DST, ipA.AsSlice()...)))
	f.Add(uint16(unix.RTM_NEWADDR), slices.Concat(ifaddrmsg(unix.AF_INET, 1), attr(unix.IFA_LOCAL, 1, 2, 3, 4)))
	f.Fuzz(func(t *testing.T, typ uint16, data []byte) {
		e, ok := parse(typ, data)
		if ok == (e.record == nil) {
			t.Fatalf("of interest: %v, but record %v", ok, e.record)
		}
		switch r := e.record.(type) {
		case localAddr:
			if !r.addr.IsValid() {
				t.Errorf("no address in %+v", r)
			}
		case hostRoute:
			if !r.addr.IsValid() || r.onLink && r.ifindex == 0 {
				t.Errorf("no host route: %+v", r)
			}
		case neighbour:
			if !r.addr.IsValid() || r.state&nudValid == 0 && r.mac != (topology.MAC{}) {
				t.Errorf("no neighbour: %+v", r)
			}
		case fdbEntry:
			if r.bridge == 0 || r.mac == (topology.MAC{}) {
				t.Errorf("no FDB entry: %+v", r)
			}
		}
	})
}
