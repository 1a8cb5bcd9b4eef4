// SPDX-License-Identifier: Apache-2.0

//go:build root

package micro

import (
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// packet is what a program is run on. retarget makes it one from or to another
// peer; nil where peers make no difference.
type packet struct {
	frame    []byte
	mark     uint32
	retarget func(frame []byte, peer int)
}

const markChecked = 0x00b90000 // MARK_CHECKED of bpf/include/verdict.h

// Where the fields of a frame stand that retarget changes.
const (
	atSource      = 14 + 12
	atDestination = 14 + 16
	atChecksum    = 14 + 10
	vxlanLen      = 20 + 8 + 8 + 14
)

// fromContainer is a datagram of 64 bytes as it leaves the container.
func fromContainer() packet {
	frame := serialise(ethernet(containerMAC, gatewayMAC), ip(containerAddr, remoteAddr(1)), datagram())
	return packet{frame: frame, retarget: retargetDestination}
}

// fromHost is the same as the kernel hands it to bpfnet0.
func fromHost() packet {
	frame := serialise(ethernet(vtepMAC(0), vtepMAC(1)), ip(subnetOf(0).Addr().Next(), remoteAddr(1)), datagram())
	return packet{frame: frame, retarget: retargetDestination}
}

// fromNetwork is the same as another node sends it. The device of test runs has
// the MAC of zeros.
func fromNetwork() packet {
	outer := ip(nodeAddr(1), nodeAddr(0))
	udp := &layers.UDP{SrcPort: 50000, DstPort: vxlanPort}
	frame := serialise(ethernet(topology.MAC{2}, topology.MAC{}), outer, udp, &layers.VXLAN{ValidIDFlag: true, VNI: vni},
		ethernet(vtepMAC(1), vtepMAC(0)), ip(remoteAddr(1), containerAddr), datagram())
	frame[14+20+6], frame[14+20+7] = 0, 0 // VXLAN over IPv4 sends no checksum
	return packet{frame: frame, retarget: func(frame []byte, peer int) {
		putAddr(frame[:vxlanLen], atSource, nodeAddr(peer))
		putAddr(frame[vxlanLen:], atSource, remoteAddr(peer))
	}}
}

// fromOverlay is one that from_network has let in.
func fromOverlay() packet {
	return packet{frame: fromHost().frame, mark: markChecked}
}

func retargetDestination(frame []byte, peer int) { putAddr(frame, atDestination, remoteAddr(peer)) }

// remoteAddr is a container of a peer.
func remoteAddr(peer int) netip.Addr { return subnetOf(peer).Addr().Next().Next() }

// putAddr changes an address of the IPv4 header behind an Ethernet one, and its checksum.
func putAddr(frame []byte, at int, a netip.Addr) {
	b := a.As4()
	copy(frame[at:], b[:])
	frame[atChecksum], frame[atChecksum+1] = 0, 0
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(frame[i])<<8 | uint32(frame[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = ^(sum&0xffff + sum>>16)
	frame[atChecksum], frame[atChecksum+1] = byte(sum>>8), byte(sum)
}

func ethernet(src, dst topology.MAC) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: net.HardwareAddr(src[:]), DstMAC: net.HardwareAddr(dst[:]), EthernetType: layers.EthernetTypeIPv4}
}

func ip(src, dst netip.Addr) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// datagram is a UDP header and 64 bytes of payload.
func datagram() gopacket.SerializableLayer {
	return gopacket.Payload(append([]byte{0x9c, 0x40, 0x9c, 0x41, 0, 72, 0, 0}, make([]byte, 64)...))
}

func serialise(all ...gopacket.SerializableLayer) []byte {
	for i, l := range all {
		if udp, ok := l.(*layers.UDP); ok {
			if err := udp.SetNetworkLayerForChecksum(all[i-1].(*layers.IPv4)); err != nil {
				panic(err) // an IPv4 header is one
			}
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		panic(err) // all fields are set
	}
	return b.Bytes()
}
