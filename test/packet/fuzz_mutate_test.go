// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
)

// mutate changes a packet in one to five places, and then now and then makes its checksums and lengths right again, so
// that the change gets past the checks of the headers around it.
func (c *crafter) mutate(a *arrival) {
	for range 1 + c.IntN(3)*c.IntN(3) {
		oneOf(c, mutations...)(c, a)
	}
	switch c.IntN(4) {
	case 0, 1:
		c.repair(false)
	case 2:
		c.repair(true)
	}
}

// mutations are the changes, those of fields more than once.
var mutations = []func(*crafter, *arrival){
	(*crafter).field, (*crafter).field, (*crafter).field, (*crafter).field, (*crafter).field,
	(*crafter).address, (*crafter).address, (*crafter).length, (*crafter).length, (*crafter).mac,
	(*crafter).flip, (*crafter).set, (*crafter).words, (*crafter).truncate, (*crafter).extend, (*crafter).splice,
	func(c *crafter, a *arrival) { a.ifindex = oneOf(c, allLinks...).ifindex },
	func(c *crafter, a *arrival) { a.mark = oneOf(c, 0, markChecked, c.Uint32()) },
}

// field is a field of a header, and the values that rules tell apart.
type field struct {
	offset int
	size   int // bytes
	values []uint32
}

var fields = map[layerKind][]field{
	layerEthernet: {{12, 2, []uint32{0x0800, 0x86dd, 0x0806, 0x8100, 100}}},
	layerIPv4: {
		{0, 1, []uint32{0x44, 0x45, 0x46, 0x4f, 0x55, 0x65, 0x60, 0x05}},
		{1, 1, []uint32{0, 1, 2, 3, 0xff}},
		{6, 2, []uint32{0, 0x4000, 0x2000, 0x8000, 1, 0x1fff, 0x2001}},
		{8, 1, []uint32{0, 1, 2, 255}},
		{9, 1, protocols},
		{10, 2, []uint32{0, 0xffff}},
	},
	layerIPv6: {
		{0, 1, []uint32{0x60, 0x6f, 0x45, 0x40, 0x70, 0x00, 0x62}},
		{1, 1, []uint32{0x00, 0x10, 0x20, 0x30, 0xff}},
		{4, 2, []uint32{0, 1, 7, 8, 65535, 65495, 65496, 32768}},
		{6, 1, protocols},
		{7, 1, []uint32{0, 1, 2, 255}},
	},
	layerFragment: {
		{0, 1, protocols},
		{2, 2, []uint32{0, 1, 6, 7, 8, 9, 0xfff8}},
	},
	layerUDP: {
		{0, 2, []uint32{0, 53, 40000, 8472}},
		{2, 2, []uint32{0, 8472, 4789, 8285, 40000, 53}},
		{4, 2, []uint32{0, 7, 8, 9, 29, 30, 31, 0xffff}},
		{6, 2, []uint32{0, 0xffff}},
	},
	layerTCP:  {{12, 1, []uint32{0, 0x40, 0x50, 0xf0}}, {16, 2, []uint32{0, 0xffff}}},
	layerICMP: {{0, 1, []uint32{0, 3, 128, 132, 133, 137, 138}}},
	layerVXLAN: {
		{0, 4, []uint32{0x08000000, 0, 0x0c000000, 0x08000001}},
		{4, 4, []uint32{0, 0x100, 0x101, 0xabcdef00, 0x200}},
	},
}

var protocols = []uint32{0, 1, 4, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 132, 255}

// field sets a field of some header to one of its values, or to anything.
func (c *crafter) field(*arrival) {
	l := c.layers[c.IntN(len(c.layers))]
	of := fields[l.kind]
	f := of[c.IntN(len(of))]
	value := oneOf(c, f.values...)
	if c.chance(6) {
		value = c.Uint32()
	}
	if at := l.at + f.offset; at+f.size <= len(c.frame) {
		for i := range f.size {
			c.frame[at+i] = byte(value >> (8 * (f.size - 1 - i)))
		}
	}
}

// address puts another address into an IP header.
func (c *crafter) address(*arrival) {
	l := c.layers[c.IntN(len(c.layers))]
	v, at := ipv4, 12
	switch l.kind {
	case layerIPv4:
	case layerIPv6:
		v, at = ipv6, 8
	default:
		return
	}
	local, _ := c.local(v)
	b := oneOf(c, c.odd(v), c.remote(v), local).AsSlice()
	at += l.at + c.IntN(2)*len(b)
	if at+len(b) <= len(c.frame) {
		copy(c.frame[at:], b)
	}
}

// length changes a length by a little.
func (c *crafter) length(*arrival) {
	l := c.layers[c.IntN(len(c.layers))]
	at := l.at
	switch l.kind {
	case layerIPv4:
		at += 2
	case layerIPv6, layerUDP:
		at += 4
	default:
		return
	}
	if at+2 <= len(c.frame) {
		by := oneOf(c, 1, 2, 4, 8, 14, 20, 28, 36, 40, c.IntN(100))
		if c.chance(2) {
			by = -by
		}
		binary.BigEndian.PutUint16(c.frame[at:], uint16(int(binary.BigEndian.Uint16(c.frame[at:]))+by))
	}
}

func (c *crafter) mac(*arrival) {
	l := c.layers[c.IntN(len(c.layers))]
	if at := l.at + 6*c.IntN(2); l.kind == layerEthernet && at+6 <= len(c.frame) {
		mac := c.oddMAC()
		copy(c.frame[at:], mac[:])
	}
}

// somewhere is an offset with room for n bytes, mostly in the headers; -1 where there is none.
func (c *crafter) somewhere(n int) int {
	room := len(c.frame) - n + 1
	if !c.chance(8) {
		room = min(room, 170)
	}
	if room <= 0 {
		return -1
	}
	return c.IntN(room)
}

func (c *crafter) flip(*arrival) {
	if at := c.somewhere(1); at >= 0 {
		c.frame[at] ^= 1 << c.IntN(8)
	}
}

func (c *crafter) set(*arrival) {
	if at := c.somewhere(1); at >= 0 {
		c.frame[at] = oneOf(c, 0, 1, 2, 4, 6, 17, 0x40, 0x45, 0x60, 0x7f, 0x80, 0xff, byte(c.Uint32()))
	}
}

func (c *crafter) words(*arrival) {
	if at := c.somewhere(4); at >= 0 {
		binary.BigEndian.PutUint32(c.frame[at:], c.Uint32())
	}
}

// truncate ends the frame anywhere, often where a header ends or just before.
func (c *crafter) truncate(*arrival) {
	n := c.IntN(len(c.frame) + 1)
	if c.chance(2) {
		n = max(0, min(n, c.layers[c.IntN(len(c.layers))].at-1+c.IntN(3)))
	}
	c.frame = c.frame[:n]
}

func (c *crafter) extend(*arrival) { c.random(1 + c.IntN(oneOf(c, 4, 60, 400))) }

// splice copies some of the packet to another place in it.
func (c *crafter) splice(*arrival) {
	from, to := c.somewhere(20), c.somewhere(20)
	if from >= 0 && to >= 0 {
		copy(c.frame[to:to+oneOf(c, 4, 8, 16, 20)], c.frame[from:])
	}
}

// repair makes the checksums of IPv4 headers right, with lengths also the lengths of the first two headers.
func (c *crafter) repair(lengths bool) {
	for i, l := range c.layers {
		switch rest := c.frame[min(l.at, len(c.frame)):]; {
		case lengths && i < 3 && l.kind == layerUDP && len(rest) >= udpLen:
			binary.BigEndian.PutUint16(rest[4:], uint16(len(rest)))
		case lengths && i < 2 && l.kind == layerIPv6 && len(rest) >= ipv6Len && rest[0]>>4 == 6,
			lengths && i < 2 && l.kind == layerIPv4 && len(rest) >= ipv4Len && rest[0]>>4 == 4 && int(rest[0]&15)*4 <= len(rest):
			c.endIP(l.at)
		case l.kind == layerIPv4 && len(rest) >= ipv4Len && rest[0]>>4 == 4 && int(rest[0]&15)*4 <= len(rest):
			ipHeader(rest).setChecksum()
		}
	}
}
