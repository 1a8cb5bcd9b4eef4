// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Lease is a node's claim to a subnet of containers: one key under
// PREFIX/subnets and its value (flannel's pkg/lease/lease.go).
type Lease struct {
	Key        string         // under PREFIX/subnets/: "172.245.0.0-24", dual stack "172.245.0.0-24&2001:db8::-64"
	Subnet     netip.Prefix   // the zero Prefix in a lease of IPv6 alone
	Subnet6    netip.Prefix   // the zero Prefix in a lease of IPv4 alone
	PublicIP   netip.Addr     // the node on the underlay
	PublicIPv6 netip.Addr     // the zero Addr where it has none
	Backend    topology.Encap // what the node encapsulates by
	VNI        uint32         // 24 bits; vxlan only
	MAC        topology.MAC   // the node's VTEP; vxlan only
	MACv6      topology.MAC   // flannel's second device, for IPv6; vxlan only
	// ZeroChecksum6: the node takes vxlan over IPv6 without a UDP checksum (RFC 6935). flannel neither
	// writes nor reads the field that says so; all else of a lease is as it writes it.
	ZeroChecksum6 bool

	CreateRevision int64 // of the key in etcd: the older of two overlapping leases is the valid one
	ModRevision    int64 // of the key in etcd
}

// leaseValue is a lease's value as flannel marshals it, field by field.
type leaseValue struct {
	PublicIP      string
	PublicIPv6    *string
	BackendType   topology.Encap `json:",omitempty"`
	BackendData   *vxlanData     `json:",omitempty"`
	BackendV6Data *vxlanData     `json:",omitempty"`
}

// Node is the address that the lease's node is known by: flannel tells leases
// apart by their PublicIP, and those of IPv6 alone have none.
func (l Lease) Node() netip.Addr {
	if l.PublicIP.IsValid() {
		return l.PublicIP
	}
	return l.PublicIPv6
}

// vxlanData is the BackendData of a vxlan lease.
type vxlanData struct {
	VNI     uint32
	VtepMAC string
	// UDP6ZeroChecksumRx is bpfnet's own, in BackendV6Data: ip-link(8) udp6zerocsumrx of the node's vxlan device.
	UDP6ZeroChecksumRx bool `json:",omitempty"`
}

// leaseKey returns the key of a lease under PREFIX/subnets/; subnet6 may be
// the zero Prefix.
func leaseKey(subnet, subnet6 netip.Prefix) string {
	key := "0.0.0.0-0"
	if subnet.IsValid() {
		key = fmt.Sprintf("%v-%d", subnet.Addr(), subnet.Bits())
	}
	if subnet6.IsValid() {
		key += fmt.Sprintf("&%v-%d", subnet6.Addr(), subnet6.Bits())
	}
	return key
}

// parseLeaseKey is the inverse of leaseKey. A key that names a misaligned
// subnet, or names one in another way than flannel does, is an error.
func parseLeaseKey(key string) (subnet, subnet6 netip.Prefix, err error) {
	v4, v6, dual := strings.Cut(key, "&")
	if !dual || v4 != "0.0.0.0-0" {
		if subnet, err = parseKeySubnet(v4, ipv4.bits); err != nil {
			return netip.Prefix{}, netip.Prefix{}, err
		}
	}
	if dual {
		if subnet6, err = parseKeySubnet(v6, ipv6.bits); err != nil {
			return netip.Prefix{}, netip.Prefix{}, err
		}
	}
	if want := leaseKey(subnet, subnet6); key != want {
		return netip.Prefix{}, netip.Prefix{}, fmt.Errorf("key is not written as flannel writes it, %q", want)
	}
	return subnet, subnet6, nil
}

// parseKeySubnet reads "172.245.0.0-24". Whole address spaces and single
// addresses, which flannel does not read either, are no subnets.
func parseKeySubnet(s string, bits int) (netip.Prefix, error) {
	addr, length, _ := strings.Cut(s, "-")
	a, err := netip.ParseAddr(addr)
	n, err2 := strconv.Atoi(length)
	if err = errors.Join(err, err2); err != nil || a.BitLen() != bits || a.Zone() != "" || n < 1 || n >= bits {
		return netip.Prefix{}, fmt.Errorf("key names no subnet: %q is not of the form %q", s, "172.245.0.0-24")
	}
	p := netip.PrefixFrom(a, n)
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("subnet %v is misaligned: a /%d begins at %v", p, n, p.Masked().Addr())
	}
	return p, nil
}

// ParseLease reads a lease from its key, without PREFIX/subnets/, and its
// value. The revisions are left 0. Its error is one line that names the field;
// with ErrPending there are a Key, a Subnet and a PublicIP all the same.
func ParseLease(key string, value []byte) (Lease, error) {
	l := Lease{Key: key}
	var err error
	if l.Subnet, l.Subnet6, err = parseLeaseKey(key); err != nil {
		return Lease{}, err
	}
	var v leaseValue
	if err = json.Unmarshal(value, &v); err != nil {
		return Lease{}, fmt.Errorf("value is no lease: %w", err)
	}
	if err = l.parsePublicIPs(v); err != nil {
		return Lease{}, err
	}
	if v.BackendType == pending {
		return l, ErrPending
	}
	l.Backend = v.BackendType
	if l.Backend == "" {
		l.Backend = topology.EncapUDP
	}
	if _, known := defaultPorts[l.Backend]; !known {
		return Lease{}, fmt.Errorf("BackendType %q is not supported: the node's network config must name another", l.Backend)
	}
	if l.Backend == topology.EncapVXLAN {
		if err = l.parseVXLAN(v); err != nil {
			return Lease{}, err
		}
	}
	return l, nil
}

// parsePublicIPs takes over where the node is on the underlay. A lease of IPv4
// has an IPv4 address, but in ipip, where the tunnel may be one over IPv6. What
// is missing of IPv6 beside IPv4 keeps IPv4 from nothing.
func (l *Lease) parsePublicIPs(v leaseValue) (err error) {
	var v6 string
	if v.PublicIPv6 != nil {
		v6 = *v.PublicIPv6
	}
	noIPv4 := v.PublicIP == "" || v.PublicIP == noPublicIP
	if noIPv4 && (!l.Subnet.IsValid() || v6 != "" && (v.BackendType == topology.EncapIPIP || v.BackendType == pending)) {
		l.PublicIPv6, err = parsePublicIP("PublicIPv6", v6, l.Subnet6, ipv6.bits)
		return err
	}
	if l.PublicIP, err = parsePublicIP("PublicIP", v.PublicIP, l.Subnet, ipv4.bits); err != nil || v6 == "" {
		return err
	}
	l.PublicIPv6, err = parsePublicIP("PublicIPv6", v6, l.Subnet6, ipv6.bits)
	return err
}

// parseVXLAN takes over what the value of a vxlan lease says of VTEPs.
func (l *Lease) parseVXLAN(v leaseValue) error {
	for _, d := range []struct {
		field string
		data  *vxlanData
		want  bool
		mac   *topology.MAC
	}{
		{"BackendV6Data", v.BackendV6Data, false, &l.MACv6},
		{"BackendData", v.BackendData, l.Subnet.IsValid(), &l.MAC},
	} {
		if d.data == nil && !d.want {
			continue
		}
		if d.data == nil || d.data.VtepMAC == "" {
			return fmt.Errorf("%s.VtepMAC is missing: a vxlan lease needs its node's VTEP MAC", d.field)
		}
		if d.data.VNI > vniMax {
			return fmt.Errorf("%s.VNI %d is not within 0 to %d", d.field, d.data.VNI, vniMax)
		}
		mac, err := parseMAC(d.data.VtepMAC)
		if err != nil {
			return fmt.Errorf("%s.VtepMAC %w", d.field, err)
		}
		l.VNI, *d.mac = d.data.VNI, mac
	}
	l.ZeroChecksum6 = v.BackendV6Data != nil && v.BackendV6Data.UDP6ZeroChecksumRx
	return nil
}

// parseMAC reads the address of one Ethernet station.
func parseMAC(s string) (topology.MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(topology.MAC{}) {
		return topology.MAC{}, fmt.Errorf("%q is no Ethernet address", s)
	}
	mac := topology.MAC(hw)
	if mac == (topology.MAC{}) || mac[0]&1 != 0 {
		return topology.MAC{}, fmt.Errorf("%q is no address of one station", s)
	}
	return mac, nil
}

// noPublicIP is how flannel writes that a node has no IPv4 address.
const noPublicIP = "0.0.0.0"

// parsePublicIP reads a node's address on the underlay.
func parsePublicIP(field, s string, subnet netip.Prefix, bits int) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, fmt.Errorf("%s is missing", field)
	}
	a, err := netip.ParseAddr(s)
	if a = a.Unmap(); err != nil || a.BitLen() != bits || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s %q is no address", field, s)
	}
	switch {
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%s %v is no node's address", field, a)
	case subnet.Contains(a):
		return netip.Addr{}, fmt.Errorf("%s %v lies in the lease's own subnet %v: nothing could reach it", field, a, subnet)
	}
	return a, nil
}

// Value returns the lease's value in etcd, byte for byte as flannel writes it
// where ZeroChecksum6 is not set.
func (l Lease) Value() ([]byte, error) {
	if _, known := defaultPorts[l.Backend]; !known && l.Backend != pending {
		return nil, fmt.Errorf("encode lease %s: backend %q is not supported", l.Key, l.Backend)
	}
	v := leaseValue{PublicIP: noPublicIP}
	if l.PublicIP.IsValid() {
		v.PublicIP = l.PublicIP.String()
	}
	if l.PublicIPv6.IsValid() {
		s := l.PublicIPv6.String()
		v.PublicIPv6 = &s
	}
	if l.Backend != topology.EncapUDP { // flannel's udp backend leaves the type out
		v.BackendType = l.Backend
	}
	if l.Backend == topology.EncapVXLAN {
		if l.MAC == (topology.MAC{}) && l.Subnet.IsValid() {
			return nil, fmt.Errorf("encode lease %s: a vxlan lease needs a VTEP MAC", l.Key)
		}
		v.BackendData = l.vxlanData(l.MAC)
		if v.BackendV6Data = l.vxlanData(l.MACv6); v.BackendV6Data != nil {
			v.BackendV6Data.UDP6ZeroChecksumRx = l.ZeroChecksum6
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode lease %s: %w", l.Key, err)
	}
	return b, nil
}

func (l Lease) vxlanData(mac topology.MAC) *vxlanData {
	if mac == (topology.MAC{}) {
		return nil
	}
	return &vxlanData{VNI: l.VNI, VtepMAC: net.HardwareAddr(mac[:]).String()}
}
