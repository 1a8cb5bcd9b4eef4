// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// MAC is an Ethernet address as it stands on the wire.
type MAC = [6]byte

// Addr is an address as the maps hold it: IPv6, or IPv4 as ::ffff:a.b.c.d
// (RFC 4291, 2.5.5.2), in network byte order. The zero netip.Addr, no address,
// becomes all zeroes.
func Addr(a netip.Addr) bpf.DatapathAddr {
	var w bpf.DatapathAddr
	b := a.As16()
	for i := range w.Word {
		w.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// NetipAddr undoes Addr.
func NetipAddr(w bpf.DatapathAddr) netip.Addr {
	if w == (bpf.DatapathAddr{}) {
		return netip.Addr{}
	}
	var b [16]byte
	for i, word := range w.Word {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	return netip.AddrFrom16(b).Unmap()
}

// netToHost turns what the maps hold in network byte order, read as one of
// the machine's numbers, into the number it stands for.
func netToHost(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}

// hostToNet undoes netToHost.
func hostToNet(v uint32) uint32 { return netToHost(v) }

func netToHost16(v uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v))
}
