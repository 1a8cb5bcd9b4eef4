// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// Host is an entry of hosts. It compares with ==, header included, so that
// entries can be found by content.
type Host struct {
	Node      netip.Addr // outer destination
	NextHop   netip.Addr // the node itself, or the router towards it
	Ifindex   uint32     // uplink
	MTU       uint16     // largest inner IP packet, bytes
	Encap     bpf.DatapathEncap
	Flags     bpf.DatapathHostFlags
	Adjust    uint64 // flags for bpf_skb_adjust_room
	HeaderLen uint8  // bytes of Header in use; 0 where packets go as they are
	// Header is the finished outer header, from the outer IP header on, as struct host in
	// bpf/include/types.h says.
	Header [headerMax]byte
}

const headerMax = len(bpf.DatapathHost{}.Header)

// encodeHost refuses what the datapath could not send by.
func encodeHost(h Host) (bpf.DatapathHost, error) { return wireHost(h), h.check() }

func decodeHost(w bpf.DatapathHost) (Host, error) {
	h := hostOf(w)
	return h, h.check()
}

// A template has no node.

func encodeTemplate(h Host) (bpf.DatapathHost, error) { return wireHost(h), h.checkHeader() }

func decodeTemplate(w bpf.DatapathHost) (Host, error) {
	h := hostOf(w)
	return h, h.checkHeader()
}

func wireHost(h Host) bpf.DatapathHost {
	return bpf.DatapathHost{
		Node:      Addr(h.Node),
		NextHop:   Addr(h.NextHop),
		Ifindex:   h.Ifindex,
		Mtu:       h.MTU,
		Encap:     h.Encap,
		Flags:     h.Flags,
		Adjust:    h.Adjust,
		HeaderLen: h.HeaderLen,
		Header:    h.Header,
	}
}

func hostOf(w bpf.DatapathHost) Host {
	return Host{
		Node:      NetipAddr(w.Node),
		NextHop:   NetipAddr(w.NextHop),
		Ifindex:   w.Ifindex,
		MTU:       w.Mtu,
		Encap:     w.Encap,
		Flags:     w.Flags,
		Adjust:    w.Adjust,
		HeaderLen: w.HeaderLen,
		Header:    w.Header,
	}
}

func (h Host) check() error {
	if !h.Node.IsValid() {
		return errors.New("no node address")
	}
	return h.checkHeader()
}

// headerLens are, in bytes, those that the programs copy of a header, which go by the encapsulation
// (outer_len in bpf/include/encap.h): over IPv4, and over IPv6.
var headerLens = map[bpf.DatapathEncap][2]uint8{
	bpf.DatapathEncapENCAP_NONE:  {0, 0},
	bpf.DatapathEncapENCAP_IPIP:  {20, 40},
	bpf.DatapathEncapENCAP_VXLAN: {50, 70},
	bpf.DatapathEncapENCAP_UDP:   {28},
}

func (h Host) checkHeader() error {
	lens, known := headerLens[h.Encap]
	if !known {
		return fmt.Errorf("encapsulation %d, which is none we know", h.Encap)
	}
	want, outer := lens[0], "IPv4"
	if h.Flags&bpf.DatapathHostFlagsHOST_IPV6 != 0 {
		want, outer = lens[1], "IPv6"
		if h.Encap == bpf.DatapathEncapENCAP_UDP {
			return errors.New("encapsulation udp over IPv6, which there is not")
		}
	}
	if h.HeaderLen != want {
		return fmt.Errorf("header of %d bytes for encapsulation %d over %s, want %d", h.HeaderLen, h.Encap, outer, want)
	}
	return nil
}
