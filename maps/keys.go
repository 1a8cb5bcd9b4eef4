// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
)

// AddrKey is an address of a network of containers.
type AddrKey struct {
	Network uint32
	Addr    netip.Addr
}

func (k AddrKey) String() string { return fmt.Sprintf("%s of network %d", k.Addr, k.Network) }

// FDBKey is an Ethernet address of a VXLAN segment.
type FDBKey struct {
	VNI uint32 // 24 bits
	MAC MAC
}

func (k FDBKey) String() string {
	return fmt.Sprintf("%s of VNI %d", net.HardwareAddr(k.MAC[:]), k.VNI)
}

var (
	errNoAddr     = errors.New("no address")
	errNoHost     = errors.New("host index 0, which is none")
	errVNI        = errors.New("VNI of more than 24 bits")
	errMappedAddr = errors.New("IPv4 address in IPv6 form")
)

// encodeAddr refuses what would not come back from the map as it went in.
func encodeAddr(a netip.Addr) (bpf.DatapathAddr, error) {
	switch {
	case !a.IsValid() || a.IsUnspecified() && a.Is6():
		return bpf.DatapathAddr{}, errNoAddr
	case a.Is4In6():
		return bpf.DatapathAddr{}, errMappedAddr
	}
	return Addr(a.WithZone("")), nil
}

func decodeAddr(w bpf.DatapathAddr) (netip.Addr, error) {
	a := NetipAddr(w)
	if !a.IsValid() {
		return a, errNoAddr
	}
	return a, nil
}

func encodeAddrKey(k AddrKey) (bpf.DatapathIpKey, error) {
	a, err := encodeAddr(k.Addr)
	return bpf.DatapathIpKey{Network: k.Network, Addr: a}, err
}

func decodeAddrKey(w bpf.DatapathIpKey) (AddrKey, error) {
	a, err := decodeAddr(w.Addr)
	return AddrKey{Network: w.Network, Addr: a}, err
}

func compareAddrKeys(a, b AddrKey) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
}

func encodeFDBKey(k FDBKey) (bpf.DatapathFdbKey, error) {
	if k.VNI >= 1<<24 {
		return bpf.DatapathFdbKey{}, errVNI
	}
	return bpf.DatapathFdbKey{Vni: k.VNI, Mac: bpf.DatapathMac{Byte: k.MAC}}, nil
}

func decodeFDBKey(w bpf.DatapathFdbKey) (FDBKey, error) {
	if w.Vni >= 1<<24 {
		return FDBKey{}, errVNI
	}
	if w.Pad != [2]uint8{} {
		return FDBKey{}, errors.New("padding is not zero: no packet finds it")
	}
	return FDBKey{VNI: w.Vni, MAC: w.Mac.Byte}, nil
}

func compareFDBKeys(a, b FDBKey) int {
	return cmp.Or(cmp.Compare(a.VNI, b.VNI), bytes.Compare(a.MAC[:], b.MAC[:]))
}

func encodeHostIndex(index uint32) (bpf.DatapathHostIndex, error) {
	if index == uint32(bpf.DatapathHostIndexHOST_NONE) {
		return 0, errNoHost
	}
	return bpf.DatapathHostIndex(index), nil
}

func decodeHostIndex(w bpf.DatapathHostIndex) (uint32, error) {
	if w == bpf.DatapathHostIndexHOST_NONE {
		return 0, errNoHost
	}
	return uint32(w), nil
}
