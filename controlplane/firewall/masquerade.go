// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// kubeProxyMark is the bit kube-proxy sets on what it will masquerade itself
// (its --iptables-masquerade-bit, 14 by default).
const kubeProxyMark = 0x4000

// register is the one that every expression here works in: NFT_REG_1, 16 bytes
// wide, enough for an IPv6 address.
const register = 1

// rule is one rule of the chain, with the comment `nft list` shows.
type rule struct {
	comment string
	exprs   []expr.Any
}

// masqueradeRules are the rules of the chain in their order; the package comment says why.
func (f family) masqueradeRules(r Rules) []rule {
	masquerade := []expr.Any{&expr.Masq{FullyRandom: r.RandomFully}}
	others := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	return []rule{
		{"kube-proxy masquerades it", slices.Concat(marked(kubeProxyMark), others)},
		{"between containers of this node", slices.Concat(f.from(r.Subnet), f.to(r.Subnet), others)},
		{"inside the overlay", slices.Concat(f.from(r.Network), f.to(r.Network), f.keepSource())},
		{"into this node's containers", slices.Concat(f.notFrom(r.Network), f.to(r.Subnet), others)},
		{"out of the overlay", slices.Concat(f.from(r.Network), f.notTo(f.multicast), masquerade)},
		{"into other nodes' containers", slices.Concat(f.notFrom(r.Network), f.to(r.Network), masquerade)},
	}
}

func (f family) from(p netip.Prefix) []expr.Any    { return address(f.source, expr.CmpOpEq, p) }
func (f family) notFrom(p netip.Prefix) []expr.Any { return address(f.source, expr.CmpOpNeq, p) }
func (f family) to(p netip.Prefix) []expr.Any      { return address(f.dest, expr.CmpOpEq, p) }
func (f family) notTo(p netip.Prefix) []expr.Any   { return address(f.dest, expr.CmpOpNeq, p) }

// address compares the address at that offset of the IP header with a prefix.
func address(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	return []expr.Any{
		load(offset, p.Addr()),
		mask(net.CIDRMask(p.Bits(), p.Addr().BitLen())),
		&expr.Cmp{Op: op, Register: register, Data: p.Addr().AsSlice()},
	}
}

// marked asks for a bit of the packet's mark, a number in host order.
func marked(bit uint32) []expr.Any {
	b := binaryutil.NativeEndian.PutUint32(bit)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		mask(b),
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: b},
	}
}

// keepSource settles the connection's source NAT as none: `snat to ip saddr`.
func (f family) keepSource() []expr.Any {
	return []expr.Any{
		load(f.source, f.multicast.Addr()),
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nft), RegAddrMin: register, RegAddrMax: register},
	}
}

// load reads an address as long as like from the IP header.
func load(offset uint32, like netip.Addr) expr.Any {
	return &expr.Payload{
		DestRegister: register,
		Base:         expr.PayloadBaseNetworkHeader,
		Offset:       offset,
		Len:          uint32(like.BitLen() / 8),
	}
}

func mask(m []byte) expr.Any {
	return &expr.Bitwise{
		SourceRegister: register,
		DestRegister:   register,
		Len:            uint32(len(m)),
		Mask:           m,
		Xor:            make([]byte, len(m)),
	}
}
