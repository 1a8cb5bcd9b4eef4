// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// offloadedV6 is what a container's kernel leaves to devices: a checksum alone, or the cutting of 20,000 bytes too.
type offloadedV6 struct {
	name     string
	protocol layers.IPProtocol
	segment  int // bytes; 0: one packet
}

var offloadsV6 = []offloadedV6{
	{"TCP", layers.IPProtocolTCP, 1300},
	{"UDP", layers.IPProtocolUDP, 1300},
	{"checksum of TCP", layers.IPProtocolTCP, 0},
	{"checksum of UDP", layers.IPProtocolUDP, 0},
}

func (o offloadedV6) payload() []byte {
	if o.segment == 0 {
		return pattern(1000)
	}
	return pattern(20_000)
}

// packet is the packet or nth segment that begins at a byte of the payload.
func (o offloadedV6) packet(tun tunnelV6, hops uint8, n, at int, payload []byte) []byte {
	var transport gopacket.SerializableLayer
	ip := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: o.protocol, SrcIP: tun.container().AsSlice(), DstIP: tun.remote().AsSlice()}
	if o.protocol == layers.IPProtocolTCP {
		tcp := &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1 + uint32(at), ACK: true}
		_ = tcp.SetNetworkLayerForChecksum(ip) // of an IP layer it takes any
		transport = tcp
	} else {
		udp := &layers.UDP{SrcPort: 40000, DstPort: 53}
		_ = udp.SetNetworkLayerForChecksum(ip)
		transport = udp
	}
	if tun.inner == 4 {
		d := datagram{src: tun.container(), dst: tun.remote(), transport: transport, payload: payload}
		d.id += uint16(n)
		return d.withTTL(hops).bytes()
	}
	return build(ip, transport, gopacket.Payload(payload))
}

// segments are what has to come out where a device without offloads has cut it.
func (o offloadedV6) segments(tun tunnelV6, hops uint8) (all [][]byte) {
	at := 0
	for payload := range slices.Chunk(o.payload(), max(o.segment, 1000)) {
		all = append(all, o.packet(tun, hops, len(all), at, payload))
		at += len(payload)
	}
	return all
}

// header is what the kernel knows of the packet beside its bytes, in a frame where so many are in front of it.
func (o offloadedV6) header(tun tunnelV6, outer int) vnetHeader {
	ip := ipv6Len
	if tun.inner == 4 {
		ip = ipv4Len
	}
	h := vnetHeader{Flags: needsCsum, CsumStart: uint16(etherLen + outer + ip), CsumOffset: 6, GSOSize: uint16(o.segment)}
	h.HeaderLen = h.CsumStart + udpLen
	if o.protocol == layers.IPProtocolTCP {
		h.CsumOffset, h.HeaderLen = 16, h.CsumStart+20
	}
	switch {
	case o.segment == 0:
	case o.protocol == layers.IPProtocolUDP:
		h.GSOType = gsoUDPL4
	case tun.inner == 4:
		h.GSOType = gsoTCPv4
	default:
		h.GSOType = gsoTCPv6
	}
	return h
}

// partial has the sum of the pseudo header in the place of the checksum (net/ipv6/ip6_checksum.c).
func (o offloadedV6) partial(tun tunnelV6, packet []byte) []byte {
	h := o.header(tun, 0)
	start, addresses := int(h.CsumStart)-etherLen, packet[8:40]
	if tun.inner == 4 {
		addresses = packet[12:20]
	}
	length := binary.BigEndian.AppendUint16([]byte{0, byte(o.protocol)}, uint16(len(packet)-start))
	return patched(packet, put16(start+int(h.CsumOffset), internetSum(join(addresses, length))))
}

// peersMachine is the first peer, which has no container and one peer, this node.
func (tun tunnelV6) peersMachine(t *testing.T) *machine {
	t.Helper()
	s, _ := tun.network()
	self, peer := s.Self, s.Peers[0]
	s.Peers = []topology.Peer{{
		Key: "k", Subnet: self.Subnet, Node: tun.self, Encap: tun.encap, VTEP: self.VTEP,
		Path: topology.Path{Ifindex: peer.Path.Ifindex, NextHop: tun.self, MTU: 1500},
	}}
	s.Self.Subnet, s.Self.VTEP, s.Self.Node, s.Self.Other = peer.Subnet, peer.VTEP, tun.pick(peerV6, node2), tun.pick(node2, peerV6)
	return daemonsMachine(t, s, peer.Subnet.Addr().Next())
}

// TestIPv6Offloads: the checksums and superpackets that a container's kernel has left to devices are left to them in the
// tunnel too, where csum_start and gso_size say so, and are what they were behind the decapsulation. Of an uplink that
// does nothing for anybody come the segments, each in a tunnel header of its own, and complete.
func TestIPv6Offloads(t *testing.T) {
	wired(t)
	uplinkSetting := "/proc/sys/net/ipv6/conf/" + uplink.name + "/"
	must(t, os.WriteFile(uplinkSetting+"addr_gen_mode", []byte("1"), 0)) // no address, so that it has nothing to say
	must(t, os.WriteFile(uplinkSetting+"disable_ipv6", []byte("0"), 0))
	must(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: int(uplink.ifindex), IP: peerV6.AsSlice(), HardwareAddr: farMAC[:], State: netlink.NUD_PERMANENT,
	}))
	for _, tun := range append(tunnelsV6, vxlanV6Zero) {
		t.Run(fmt.Sprintf("%s, zero checksum %v", tun.name, tun.zero), func(t *testing.T) {
			near, far := tun.machine(t), tun.peersMachine(t)
			attach(t, near.programs[bpf.DatapathProgramPROGRAM_FROM_CONTAINER], int(link1.ifindex), netlink.HANDLE_MIN_INGRESS)
			attach(t, far.programs[bpf.DatapathProgramPROGRAM_FROM_NETWORK], ifindexOf(t, "peer-uplink"), netlink.HANDLE_MIN_INGRESS)
			for _, o := range offloadsV6 {
				t.Run(o.name, func(t *testing.T) { o.test(t, tun, near, far, false) })
				t.Run(o.name+", cut", func(t *testing.T) {
					withoutChecksums(t, uplink.name)
					o.test(t, tun, near, far, true)
				})
			}
		})
	}
}

// test sends the packet from c1 to the peer, and looks at it on the wire and behind the peer's decapsulation.
func (o offloadedV6) test(t *testing.T, tun tunnelV6, near, far *machine, cut bool) {
	underlay, inside := openTap(t, ifindexOf(t, "peer-uplink")), openTap(t, int(overlay.ifindex))
	whole := func(hops uint8) []byte { return o.packet(tun, hops, 0, 0, o.payload()) }
	outer := len(tun.sent(0, 63, []byte{})) - etherLen
	onWire, behind, sent := o.header(tun, outer), o.header(tun, 0), [][]byte{whole(63)}
	if cut {
		onWire, behind, sent = vnetHeader{}, vnetHeader{}, o.segments(tun, 63)
	}
	must(t, errors.Join(near.begin(), far.begin()))
	must(t, openTap(t, ifindexOf(t, "peer-c1")).send(o.header(tun, 0), fromContainerV6(o.partial(tun, whole(64))).frame))
	if tun == vxlanV6 && o.segment > 0 { // the kernel's device alone has its segments' outer checksums made
		awaitCounted(t, near, counterKey(bpf.DatapathProgramPROGRAM_FROM_CONTAINER, bpf.DatapathReasonPASS_UDP_CHECKSUM))
		return
	}
	for n, inner := range sent {
		h, got, err := underlay.receive()
		must(t, err)
		got = h.fill(got)
		tun.settle(t, got)
		where := fmt.Sprintf("segment %d on the wire", n)
		compareFrames(t, where, join(farMAC[:], uplink.mac[:], tun.sent(0, 63, inner)[etherLen-2:]), got)
		compareHeaders(t, where, onWire, h)
		if tun.zero && h.GSOType == gsoUDPL4 { // nobody could cut it into datagrams after our decapsulation
			awaitCounted(t, far, counterKey(bpf.DatapathProgramPROGRAM_FROM_NETWORK, bpf.DatapathReasonPASS_UDP_SUPERPACKET))
			return
		}
		h, got, err = inside.receive()
		must(t, err)
		where = fmt.Sprintf("segment %d decapsulated", n)
		compareFrames(t, where, etherType(vtep2, uplink.mac, tun.etherType(), inner), h.fill(got))
		compareHeaders(t, where, behind, h)
	}
}

// settle is settleV6, and leaves the checksum that is none.
func (tun tunnelV6) settle(t *testing.T, frame []byte) {
	t.Helper()
	if !tun.zero {
		settleV6(t, frame)
		return
	}
	port := frame[etherLen+ipv6Len:][:2]
	if binary.BigEndian.Uint16(port) < 49152 {
		t.Errorf("source port % x is not in 49152 to 65535", port)
	}
	clear(port)
}

// fill fills the checksum in that a device would have (skb_checksum_help() of net/core/dev.c).
func (h vnetHeader) fill(frame []byte) []byte {
	if h.Flags&needsCsum == 0 {
		return frame
	}
	return patched(frame, put16(int(h.CsumStart+h.CsumOffset), ^internetSum(frame[h.CsumStart:])))
}
