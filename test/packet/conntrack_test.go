// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaProtoInfo, ctaTimeout, ctaNATDst = 1, 2, 3, 4, 7, 13

	ctaTupleIP, ctaTupleProto             = 1, 2
	ctaIPv4Src, ctaIPv4Dst                = 1, 2
	ctaIPv6Src, ctaIPv6Dst                = 3, 4
	ctaProtoNum, ctaProtoSrc, ctaProtoDst = 1, 2, 3
	ctaProtoInfoTCP, ctaTCPState          = 1, 1
	ctaNATMinIP, ctaNATMaxIP, ctaNATProto = 1, 2, 3
	ctaNATMinIPv6, ctaNATMaxIPv6          = 4, 5
	ctaNATPortMin, ctaNATPortMax          = 1, 2

	statusEstablished = 1<<1 | 1<<2 | 1<<3 // seen a reply, assured, confirmed
	tcpEstablished    = 3                  // TCP_CONNTRACK_ESTABLISHED
)

// track has the kernel's conntrack know the connections, in this namespace.
func track(all []connection) (err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("reach conntrack: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for _, c := range all {
		family := uint8(unix.AF_INET)
		if c.first.src.Addr().Is6() {
			family = unix.AF_INET6
		}
		attributes, err := c.attributes()
		if err != nil {
			return fmt.Errorf("encode connection %v: %w", c, err)
		}
		_, err = conn.Execute(netlink.Message{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_CTNETLINK << 8, // IPCTNL_MSG_CT_NEW
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append([]byte{family, 0, 0, 0}, attributes...), // struct nfgenmsg
		})
		if err != nil {
			return fmt.Errorf("track connection %v: %w", c, err)
		}
	}
	return nil
}

func (c connection) attributes() ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(ctaTupleOrig, c.first.encode)
	e.Nested(ctaTupleReply, c.first.reversed().encode)
	e.Uint32(ctaStatus, statusEstablished)
	e.Uint32(ctaTimeout, 3600)
	if c.first.protocol == protocolTCP {
		e.Nested(ctaProtoInfo, func(e *netlink.AttributeEncoder) error {
			e.Nested(ctaProtoInfoTCP, func(e *netlink.AttributeEncoder) error {
				e.Uint8(ctaTCPState, tcpEstablished)
				return nil
			})
			return nil
		})
	}
	if c.translated() {
		e.Nested(ctaNATDst, func(e *netlink.AttributeEncoder) error {
			lowest, highest := uint16(ctaNATMinIP), uint16(ctaNATMaxIP)
			if c.to.Addr().Is6() {
				lowest, highest = ctaNATMinIPv6, ctaNATMaxIPv6
			}
			e.Bytes(lowest, c.to.Addr().AsSlice())
			e.Bytes(highest, c.to.Addr().AsSlice())
			e.Nested(ctaNATProto, func(e *netlink.AttributeEncoder) error {
				e.Uint16(ctaNATPortMin, c.to.Port())
				e.Uint16(ctaNATPortMax, c.to.Port())
				return nil
			})
			return nil
		})
	}
	return e.Encode()
}

func (f flow) encode(e *netlink.AttributeEncoder) error {
	e.Nested(ctaTupleIP, func(e *netlink.AttributeEncoder) error {
		src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
		if f.src.Addr().Is6() {
			src, dst = ctaIPv6Src, ctaIPv6Dst
		}
		e.Bytes(src, f.src.Addr().AsSlice())
		e.Bytes(dst, f.dst.Addr().AsSlice())
		return nil
	})
	e.Nested(ctaTupleProto, func(e *netlink.AttributeEncoder) error {
		e.Uint8(ctaProtoNum, f.protocol)
		e.Uint16(ctaProtoSrc, f.src.Port())
		e.Uint16(ctaProtoDst, f.dst.Port())
		return nil
	})
	return nil
}
