// SPDX-License-Identifier: Apache-2.0

// Package headroom has the containers' bridges ask their ports for room in
// front of packets, so that an outer header finds it there. The kernel gives a packet
// that a UDP socket makes on a veth 2 bytes more than its own headers take, and pushing another in front of it
// copies its head. A bridge passes what one of its ports needs on to all others (update_headroom() in
// net/bridge/br_if.c), and a veth to its other end (veth_set_rx_headroom() in drivers/net/veth.c).
//
// So that port is a vxlan device of IPv6, which needs 84 bytes (vxlan_config_apply() in
// drivers/net/vxlan/vxlan_core.c), as many as the longest header of the datapath and Ethernet's. It is
// never up: it opens no socket, and the bridge forwards nothing to it. Nor does it
// change the bridge: that takes the lowest MAC and the lowest MTU of its ports, and these are the highest.
package headroom

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// prefix begins the devices' names; the bridge's ifindex in hexadecimal follows.
// Together they are no longer than names may be.
const prefix = "bpfneth"

// Where the device would send to and receive from, if it were up. No other has
// the same port and VNI, which the kernel would refuse to make (vxlan_config_validate()).
var discard = net.ParseIP("100::1") // of the prefix that routers discard, RFC 6666

const (
	discardPort = 9 // likewise, RFC 863
	vniMask     = 1<<24 - 1
)

const mtu = 65535 // ETH_MAX_MTU, linux/if_ether.h

// mac is the highest of a single device.
var mac = net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}

// Ensure has the bridges with these ifindexes, and no others, ask their ports
// for headroom, and reports whether that was not so. It writes only what differs.
func Ensure(bridges ...int) (changed bool, err error) {
	h, err := rtnl.Open()
	if err != nil {
		return false, err
	}
	defer h.Close()
	links, err := rtnl.List("links", h.LinkList)
	if err != nil {
		return false, err
	}
	missing := map[string]*netlink.Vxlan{}
	for _, b := range bridges {
		missing[name(b)] = device(b)
	}
	var errs []error
	for _, l := range links {
		there, ours := l.(*netlink.Vxlan)
		if !ours || !isOurs(there) {
			continue
		}
		if same(there, missing[there.Name]) {
			delete(missing, there.Name)
			continue
		}
		changed = true
		errs = append(errs, failed("delete", there, h.LinkDel(there)))
	}
	for _, want := range missing {
		changed = true
		errs = append(errs, failed("add", want, add(h, want)))
	}
	return changed, errors.Join(errs...)
}

// Cleanup removes the devices. None there is no error.
func Cleanup() error {
	_, err := Ensure()
	return err
}

func name(bridge int) string { return fmt.Sprintf("%s%x", prefix, bridge) }

// device is what a bridge is to have as a port.
func device(bridge int) *netlink.Vxlan {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.MTU, attrs.HardwareAddr = name(bridge), bridge, mtu, mac
	return &netlink.Vxlan{LinkAttrs: attrs, VxlanId: bridge & vniMask, Group: discard, Port: discardPort}
}

func isOurs(v *netlink.Vxlan) bool {
	return strings.HasPrefix(v.Name, prefix) && v.Group.Equal(discard)
}

// same reports whether a device of ours is as wanted; nil is none.
func same(is, want *netlink.Vxlan) bool {
	return want != nil && is.MasterIndex == want.MasterIndex && is.MTU == want.MTU &&
		bytes.Equal(is.HardwareAddr, want.HardwareAddr) && is.VxlanId == want.VxlanId && is.Port == want.Port &&
		is.Flags&net.FlagUp == 0
}

// add makes the device a port that would forward nothing even if somebody set it up.
func add(h *netlink.Handle, v *netlink.Vxlan) error {
	if err := h.LinkAdd(v); err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	header := nl.NewIfInfomsg(unix.AF_BRIDGE)
	header.Index = int32(v.Index)
	req.AddData(header)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, []byte{1})
	for _, off := range []int{
		nl.IFLA_BRPORT_LEARNING, nl.IFLA_BRPORT_UNICAST_FLOOD, nl.IFLA_BRPORT_MCAST_FLOOD, nl.IFLA_BRPORT_BCAST_FLOOD,
	} {
		port.AddRtAttr(off, []byte{0})
	}
	req.AddData(port)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func failed(what string, v *netlink.Vxlan, err error) error {
	if err != nil {
		return fmt.Errorf("%s headroom device %s of the bridge with ifindex %d: %w", what, v.Name, v.MasterIndex, err)
	}
	return nil
}
