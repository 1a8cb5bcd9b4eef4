// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// Window is the part of route_index that has one family's subnets: a slot for
// each prefix of one length, side by side. The zero Window has none.
type Window struct {
	Base  netip.Addr // first address of the first slot
	Bits  int        // prefix length of a slot
	First uint32     // number of its first slot in route_index
	Count uint32     // slots
}

const (
	ipv4Bits = 32
	ipv6Bits = 128
)

// Encode writes a window where the programs have it.
func (x Window) Encode(w *bpf.DatapathFamily) {
	if x.Count == 0 {
		return
	}
	n := toUint128(x.Base)
	w.IndexBase = [2]uint64{n.hi, n.lo}
	w.IndexShift = uint32(x.shift())
	w.IndexFirst, w.IndexCount = x.First, x.Count
}

func decodeWindow(w bpf.DatapathFamily, addrBits int) Window {
	if w.IndexCount == 0 {
		return Window{}
	}
	return Window{
		Base:  uint128{w.IndexBase[0], w.IndexBase[1]}.addr(addrBits),
		Bits:  addrBits - int(w.IndexShift),
		First: w.IndexFirst,
		Count: w.IndexCount,
	}
}

func (x Window) check() error {
	if x.Count == 0 {
		return nil
	}
	if p := netip.PrefixFrom(x.Base, x.Bits); !p.IsValid() || x.Bits == 0 || p != p.Masked() {
		return fmt.Errorf("index of /%d prefixes from %s on, which is inside one", x.Bits, x.Base)
	}
	return nil
}

func (x Window) shift() uint { return uint(x.Base.BitLen() - x.Bits) }

// slotOf is the slot an address falls into, as index_slot in bpf/include/route.h has it.
func (x Window) slotOf(a netip.Addr) (slot uint32, ok bool) {
	if x.Count == 0 || a.BitLen() != x.Base.BitLen() {
		return 0, false
	}
	n := toUint128(a).minus(toUint128(x.Base)).shiftRight(x.shift())
	if n.hi != 0 || n.lo >= uint64(x.Count) {
		return 0, false
	}
	return x.First + uint32(n.lo), true
}

// prefix is what one of the window's slots stands for.
func (x Window) prefix(slot uint32) (p netip.Prefix, ok bool) {
	n := slot - x.First
	if slot < x.First || n >= x.Count {
		return p, false
	}
	a := toUint128(x.Base).plus(uint128{lo: uint64(n)}.shiftLeft(x.shift()))
	return netip.PrefixFrom(a.addr(x.Base.BitLen()), x.Bits), true
}

// uint128 is an address as a number.
type uint128 struct{ hi, lo uint64 }

func toUint128(a netip.Addr) uint128 {
	if a.Is4() {
		b := a.As4()
		return uint128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return uint128{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

func (n uint128) addr(bits int) netip.Addr {
	if bits == ipv4Bits {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(n.lo))))
	}
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, n.hi), n.lo)
	return netip.AddrFrom16([16]byte(b))
}

func (n uint128) minus(m uint128) uint128 {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	hi, _ := bits.Sub64(n.hi, m.hi, borrow)
	return uint128{hi, lo}
}

func (n uint128) plus(m uint128) uint128 {
	lo, carry := bits.Add64(n.lo, m.lo, 0)
	hi, _ := bits.Add64(n.hi, m.hi, carry)
	return uint128{hi, lo}
}

// In Go a shift by the width of a number or more makes it 0.

func (n uint128) shiftRight(by uint) uint128 {
	if by >= 64 {
		return uint128{lo: n.hi >> (by - 64)}
	}
	return uint128{n.hi >> by, n.lo>>by | n.hi<<(64-by)}
}

func (n uint128) shiftLeft(by uint) uint128 {
	if by >= 64 {
		return uint128{hi: n.lo << (by - 64)}
	}
	return uint128{n.hi<<by | n.lo>>(64-by), n.lo << by}
}
