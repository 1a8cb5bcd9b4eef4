// SPDX-License-Identifier: Apache-2.0

//go:build root

package flood

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

const (
	vni       = 1
	vxlanPort = 8472
)

// version is an IP version: a network of it, in tunnels of it.
type version string

const (
	ipv4 version = "IPv4"
	ipv6 version = "IPv6"
)

func (v version) of(four, six string) netip.Prefix {
	if v == ipv4 {
		return netip.MustParsePrefix(four)
	}
	return netip.MustParsePrefix(six)
}

func (v version) node() netip.Prefix    { return v.of("192.168.32.245/24", "fd00:192:168:32::245/64") }
func (v version) network() netip.Prefix { return v.of("172.244.0.0/14", "fd00:172:244::/48") }
func (v version) stranger() netip.Addr {
	return v.of("192.168.32.99/24", "fd00:192:168:32::99/64").Addr()
}

// subnet is that of node 0, which is under the flood, or 1.
func (v version) subnet(node int) netip.Prefix {
	if node == 0 {
		return v.of("172.245.0.0/24", "fd00:172:244:245::/64")
	}
	return v.of("172.246.0.0/24", "fd00:172:244:246::/64")
}

func vtepMAC(node byte) topology.MAC { return topology.MAC{0xc6, 0, 0, 0, 0, node} }

func (v version) peer() topology.Peer {
	node := v.of("192.168.32.246/24", "fd00:192:168:32::246/64").Addr()
	return topology.Peer{
		Key: "peer", Subnet: v.subnet(1), Node: node, Encap: topology.EncapVXLAN,
		VTEP: topology.VTEP{MAC: vtepMAC(1), Addr: v.subnet(1).Addr()}, Path: topology.Path{Ifindex: 1, NextHop: node, MTU: 1500},
	}
}

// datapath is the programs of node 0 and their maps, filled by the daemon's code.
type datapath struct {
	programs *ebpf.Collection
	set      *maps.Set
}

func newDatapath(b *testing.B, v version, n *nic, mode link.XDPAttachFlags) *datapath {
	b.Helper()
	s := topology.State{
		Network: v.network(),
		Self: topology.Self{
			Subnet: v.subnet(0), Node: v.node().Addr(), Uplink: n.ifindex, Encap: topology.EncapVXLAN, VNI: vni, Port: vxlanPort, MTU: 1430,
			VTEP: topology.VTEP{MAC: vtepMAC(0), Addr: v.subnet(0).Addr()},
		},
		Peers: []topology.Peer{v.peer()},
	}
	settings := dataplane.Settings(false, dataplane.Network{
		Self: s.Self, Prefix: s.Network, SubnetLen: v.subnet(0).Bits(), Overlay: dataplane.Overlay{Ifindex: 1, MAC: vtepMAC(0)},
	})
	spec, err := bpf.LoadDatapath()
	must(b, err)
	settings.UplinkMac.Byte = n.mac
	if mode == link.XDPDriverMode {
		settings.WireMac.Byte = topology.MAC{2, 1, 2, 3, 4, 5}
	} else { // as loader has it
		spec.Programs[bpf.FromWire].Flags &^= unix.BPF_F_XDP_HAS_FRAGS
	}
	must(b, spec.Variables[bpf.DatapathVarConfig].Set(&settings))
	spec.Maps[bpf.DatapathMapRouteIndex].MaxEntries = settings.Ipv4.IndexCount + settings.Ipv6.IndexCount
	d := &datapath{}
	d.programs, err = ebpf.NewCollection(spec)
	must(b, err)
	b.Cleanup(d.programs.Close)
	d.set, err = maps.NewSet(d.programs.Maps)
	must(b, err)
	tables, err := dataplane.New(d.set, 0, vni)
	must(b, err)
	must(b, tables.Apply(s))
	return d
}

// dropped is how many packets a program has found to be of an unknown host.
func (d *datapath) dropped(program string) (n uint64, err error) {
	number := map[string]bpf.DatapathProgram{
		bpf.FromWire: bpf.DatapathProgramPROGRAM_FROM_WIRE, bpf.FromNetwork: bpf.DatapathProgramPROGRAM_FROM_NETWORK,
	}[program]
	var each []bpf.DatapathCounter
	key := uint32(number)*uint32(bpf.DatapathReasonREASON_MAX) + uint32(bpf.DatapathReasonDROP_UNKNOWN_HOST)
	err = d.programs.Maps[bpf.DatapathMapCounters].Lookup(key, &each)
	for _, c := range each {
		n += c.Packets
	}
	return n, err
}

func ethernetFrame(src, dst topology.MAC, v version, packet []byte) []byte {
	kind := layers.EthernetTypeIPv4
	if v == ipv6 {
		kind = layers.EthernetTypeIPv6
	}
	return serialize(&layers.Ethernet{SrcMAC: net.HardwareAddr(src[:]), DstMAC: net.HardwareAddr(dst[:]), EthernetType: kind}, packet)
}

func ipPacket(v version, src, dst netip.Addr, payload []byte) []byte {
	if v == ipv4 {
		return serialize(&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}, payload)
	}
	return serialize(&layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}, payload)
}

// datagram has no checksum.
func datagram(from, to uint16, payload []byte) []byte {
	n := 8 + len(payload)
	return append([]byte{byte(from >> 8), byte(from), byte(to >> 8), byte(to), byte(n >> 8), byte(n), 0, 0}, payload...)
}

func serialize(header gopacket.SerializableLayer, payload []byte) []byte {
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, header, gopacket.Payload(payload)); err != nil {
		panic(err) // all fields are set
	}
	return b.Bytes()
}
