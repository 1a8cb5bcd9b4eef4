// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

const (
	node4, peer4     = "192.168.32.245", "192.168.32.246"
	node6, peer6     = "2001:db8:32::245", "2001:db8:32::246"
	subnet4, subnet6 = "172.246.0.0/24", "fd00:42:0:246::/64"
)

// TestHeaderOfFamilies: the outer header follows the nodes' addresses, what it says to have inside
// the subnet's.
func TestHeaderOfFamilies(t *testing.T) {
	const (
		fixed, l3v4, l3v6 = unix.BPF_F_ADJ_ROOM_FIXED_GSO, unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV6

		vxlan      = unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP | unix.BPF_F_ADJ_ROOM_ENCAP_L2_ETH | 14<<56
		inherit    = bpf.DatapathHostFlagsHOST_INHERIT_TTL | bpf.DatapathHostFlagsHOST_INHERIT_DF
		label      = bpf.DatapathHostFlagsHOST_FLOW_LABEL
		sourcePort = bpf.DatapathHostFlagsHOST_SOURCE_PORT
		ipv6       = bpf.DatapathHostFlagsHOST_IPV6
		checksum   = bpf.DatapathHostFlagsHOST_CHECKSUM
	)
	tests := map[string]struct {
		encap        topology.Encap
		node, subnet string
		adjust       uint64
		flags        bpf.DatapathHostFlags
		header       string // spelled out but for what is summed up
	}{
		"vxlan over IPv6": {
			topology.EncapVXLAN, peer6, subnet6, fixed | l3v6 | vxlan, ipv6 | sourcePort | checksum,
			"\x60\x00\x00\x00\x00\x00\x11\x40" +
				"\x20\x01\x0d\xb8\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x02\x45" +
				"\x20\x01\x0d\xb8\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x02\x46" +
				"\x00\x00\x21\x18\x00\x00??" + "\x08\x00\x00\x00\x00\x00\x01\x00" +
				"\xc6\x00\x00\x00\x02\x00\xc6\x00\x00\x00\x01\x00\x86\xdd",
		},
		"IPv6 in IPv6": {
			topology.EncapIPIP, peer6, subnet6, fixed | l3v6, ipv6 | inherit | label,
			"\x60\x00\x00\x00\x00\x00\x29\x00" +
				"\x20\x01\x0d\xb8\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x02\x45" +
				"\x20\x01\x0d\xb8\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x02\x46",
		},
		"IPv4 in IPv6": {
			topology.EncapIPIP, peer6, subnet4, fixed | l3v6, ipv6 | inherit | label,
			"\x60\x00\x00\x00\x00\x00\x04\x00" +
				"\x20\x01\x0d\xb8\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x02\x45" +
				"\x20\x01\x0d\xb8\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x02\x46",
		},
		"IPv6 in IPv4": {
			topology.EncapIPIP, peer4, subnet6, fixed | l3v4, inherit,
			"\x45\x00\x00\x00\x00\x00\x40\x00\x00\x29??" + "\xc0\xa8\x20\xf5" + "\xc0\xa8\x20\xf6",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			self := testSelf(test.encap)
			self.Node, self.Other = netip.MustParseAddr(node4), netip.MustParseAddr(node6)
			h, err := hostEntry(self, peerOf(test.subnet, test.node, test.encap, peerMAC))
			if err != nil {
				t.Fatal(err)
			}
			if h.Adjust != test.adjust || h.Flags != test.flags || int(h.HeaderLen) != len(test.header) {
				t.Errorf("adjust %#x, flags %#x, %d bytes; want %#x, %#x, %d", h.Adjust, h.Flags, h.HeaderLen, test.adjust, test.flags, len(test.header))
			}
			for i := range test.header {
				if test.header[i] != '?' && test.header[i] != h.Header[i] {
					t.Fatalf("byte %d of % x is not as in % x", i, h.Header[:h.HeaderLen], test.header)
				}
			}
		})
	}
}

// TestZeroChecksumOverIPv6: a peer that takes none gets none, and all else as the others.
func TestZeroChecksumOverIPv6(t *testing.T) {
	self := testSelf(topology.EncapVXLAN)
	self.Node = netip.MustParseAddr(node6)
	peer := peerOf(subnet6, peer6, topology.EncapVXLAN, peerMAC)
	want, err := hostEntry(self, peer)
	if err != nil {
		t.Fatal(err)
	}
	want.Flags &^= bpf.DatapathHostFlagsHOST_CHECKSUM
	clear(want.Header[ipv6Len+6:][:2])
	peer.ZeroChecksum = true
	if got, err := hostEntry(self, peer); err != nil || got != want {
		t.Errorf("entry %+v, error %v, want %+v", got, err, want)
	}
}

// TestChecksumOverIPv6: the sum in the header plus that of what only the packet knows is the datagram's.
func TestChecksumOverIPv6(t *testing.T) {
	self := testSelf(topology.EncapVXLAN)
	self.Node = netip.MustParseAddr(node6)
	h, err := hostEntry(self, peerOf(subnet6, peer6, topology.EncapVXLAN, peerMAC))
	if err != nil {
		t.Fatal(err)
	}
	header, payload := h.Header[:h.HeaderLen], []byte("an inner packet of 32 bytes ....")
	const sourcePort = 0xc123
	length := uint32(h.HeaderLen) - ipv6Len + uint32(len(payload))
	sum := uint32(binary.BigEndian.Uint16(header[ipv6Len+6:])) + 2*length + sourcePort + uint32(internetSum(payload))
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[ipv6Len:], sourcePort)
	binary.BigEndian.PutUint16(header[ipv6Len+4:], uint16(length))
	binary.BigEndian.PutUint16(header[ipv6Len+6:], ^uint16(sum))
	datagram := append(binary.BigEndian.AppendUint32(nil, length), 0, 0, 0, unix.IPPROTO_UDP) // pseudo header: RFC 8200, 8.1
	datagram = append(append(append(datagram, header[8:ipv6Len]...), header[ipv6Len:]...), payload...)
	if !checksumOK(datagram) {
		t.Errorf("checksum %#x is wrong", ^uint16(sum))
	}
}
