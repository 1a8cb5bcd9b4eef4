// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// The kernel has a device for each two families that IP in IP may be of, but one
// for both that an outer header of IPv6 may be around. None has a remote: the route
// to a peer says where its packets go.
//
//	          in IPv4                       in IPv6
//	IPv4      bpfnet-ipip, ipip             bpfnet-ip6, ip6tnl, external
//	IPv6      bpfnet-sit, sit               the same
//	the node  is the route's gateway        is in the route's encapsulation
//	          (ip_tunnel_xmit(); of sit,    (struct ip_tunnel_info)
//	          an IPv4-compatible one:
//	          ipip6_tunnel_xmit())
//
// A node as a gateway is not to be had with ip6tnl, for the kernel refuses a gateway
// that it reaches by another device (ip6_route_check_nh_onlink, net/ipv6/route.c).

// ipipName is the kernel's device for packets of one family to a node's address of another.
func ipipName(inner, node netip.Addr) string {
	switch {
	case node.Is6():
		return IP6Name
	case inner.Is6():
		return SITName
	}
	return IPIPName
}

// outer is the address that this node's tunnels begin at; in ipip it may be of the other family than the network.
func outer(s topology.Self) netip.Addr {
	if s.Node.IsValid() {
		return s.Node
	}
	return s.Other
}

// ipipWanted is the device of that name. Each copies the TTL and makes the ECN field,
// as our programs do; the outer DF is the inner one, as flanneld has it (ip_tunnel_xmit of
// net/ipv4/ip_tunnel.c: without pmtudisc), and with IPv6 inside set, for nobody cuts that.
func ipipWanted(attrs netlink.LinkAttrs, node netip.Addr) netlink.Link {
	switch attrs.Name {
	case IP6Name:
		return &netlink.Ip6tnl{LinkAttrs: attrs, FlowBased: true}
	case SITName:
		return &netlink.Sittun{LinkAttrs: attrs, Local: node.AsSlice(), PMtuDisc: 1, Proto: unix.IPPROTO_IPV6}
	}
	return &netlink.Iptun{LinkAttrs: attrs, Local: node.AsSlice()}
}

// add makes a device. Of a sit device the library does not say that it is to copy the
// TTL, and the kernel's default is 64 (ipip6_netlink_parms(), net/ipv6/sit.c).
func (k kernel) add(want netlink.Link) error {
	sit, ok := want.(*netlink.Sittun)
	if !ok {
		return k.LinkAdd(want)
	}
	var data, info []byte
	for _, a := range []struct {
		kind  uint16
		value []byte
	}{
		{nl.IFLA_IPTUN_LOCAL, sit.Local}, {nl.IFLA_IPTUN_TTL, []byte{sit.Ttl}},
		{nl.IFLA_IPTUN_PMTUDISC, []byte{sit.PMtuDisc}}, {nl.IFLA_IPTUN_PROTO, []byte{sit.Proto}},
	} {
		data = rtnl.AppendAttr(data, a.kind, a.value)
	}
	info = rtnl.AppendAttr(info, nl.IFLA_INFO_KIND, []byte(sit.Type()))
	info = rtnl.AppendAttr(info, nl.IFLA_INFO_DATA, data)
	return k.conn.Request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, make([]byte, unix.SizeofIfInfomsg)...).
		Attr(unix.IFLA_IFNAME, append([]byte(sit.Name), 0)...).Uint32(unix.IFLA_MTU, uint32(sit.MTU)).
		Attr(unix.IFLA_LINKINFO, info...).Do()
}

// ends are those of a tunnel that a route puts its packets into (LWTUNNEL_ENCAP_IP6);
// zero where the gateway says where they go.
type ends struct{ local, remote netip.Addr }

func (e ends) valid() bool { return e.remote.IsValid() }

// compatible is the IPv4-compatible address (RFC 4291, 2.5.5.1) by which sit is told of a node.
func compatible(node netip.Addr) netip.Addr {
	var b [16]byte
	copy(b[12:], node.AsSlice())
	return netip.AddrFrom16(b)
}

// device is by which a peer is reached. By across are those that are so by the
// other family than most, for want of an address of the network's own.
func (w *work) device(p *topology.Peer) Device {
	if p.Encap != topology.EncapIPIP || w.dev.Name == OverlayName || ipipName(p.Subnet.Addr(), p.Node) == w.dev.Name {
		return w.dev
	}
	return w.across
}

// ensureAcross makes that device once a peer needs it: a kernel may have none, and
// hardly anybody needs one.
func (w *work) ensureAcross(k kernel, peers []topology.Peer) {
	if w.across != (Device{}) {
		return
	}
	for i := range peers {
		if w.device(&peers[i]) == (Device{}) && peers[i].Encap != topology.EncapNone {
			self := w.self
			self.Node = netip.Addr{}
			w.across, w.acrossErr = k.ensureOverlay(self, Kernel)
			return
		}
	}
}
