// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/maps"
)

// Of include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	getConnections = 1 // IPCTNL_MSG_CT_GET
	status         = 3 // CTA_STATUS
	statusMask     = 26
	dstNAT         = 1 << 5 // IPS_DST_NAT
)

// connections says so if there are connections that rules of before still
// translate.
func connections(before maps.NATMode) (string, error) {
	if before == maps.NATNone {
		return "", nil
	}
	there, err := translated()
	if err != nil {
		return "", fmt.Errorf("list translated connections: %w", err)
	}
	if !there {
		return "", nil
	}
	return "connections of rules that are gone", nil
}

// translated reports whether conntrack has a connection whose destination is
// translated. A kernel before 5.15 does not filter by status, and lists all.
func translated() (bool, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Uint32(status, dstNAT)
	e.Uint32(statusMask, dstNAT)
	filter, err := e.Encode()
	if err != nil {
		return false, err
	}
	replies, err := ask(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_CTNETLINK<<8 | getConnections,
			Flags: netlink.Request | netlink.Dump,
		},
		Data: filter,
	})
	if err != nil {
		return false, err
	}
	for _, reply := range replies {
		attributes, err := attributes(reply)
		if err != nil {
			return false, err
		}
		for attributes.Next() {
			if attributes.Type() == status && attributes.Uint32()&dstNAT != 0 {
				return true, nil
			}
		}
		if err := attributes.Err(); err != nil {
			return false, err
		}
	}
	return false, nil
}
