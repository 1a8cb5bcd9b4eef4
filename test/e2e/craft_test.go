// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// ipv4 is an IP header with the usual values, for a test to change.
func ipv4(src, dst netip.Addr, protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Id: 4711, Protocol: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// serialize makes bytes of layers, with lengths and checksums filled in.
func serialize(all ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, o, all...); err != nil {
		panic(err) // of what the tests have written down
	}
	return b.Bytes()
}

// udpPacket is an IP packet with a datagram.
func udpPacket(src, dst netip.Addr, from, to uint16, payload []byte, change ...func(*layers.IPv4)) []byte {
	ip := ipv4(src, dst, layers.IPProtocolUDP)
	for _, f := range change {
		f(ip)
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
	_ = udp.SetNetworkLayerForChecksum(ip) // never fails for IPv4
	return serialize(ip, udp, gopacket.Payload(payload))
}

// fragmentsOf cuts an IP packet without options into fragments of size bytes of payload.
func fragmentsOf(t *testing.T, packet []byte, size int) (fragments [][]byte) {
	t.Helper()
	header, payload := packet[:20], packet[20:]
	for offset := 0; offset < len(payload); offset += size {
		var ip layers.IPv4
		noError(t, ip.DecodeFromBytes(header, gopacket.NilDecodeFeedback))
		ip.FragOffset = uint16(offset / 8)
		end := min(offset+size, len(payload))
		if end < len(payload) {
			ip.Flags = layers.IPv4MoreFragments
		}
		fragments = append(fragments, serialize(&ip, gopacket.Payload(payload[offset:end])))
	}
	return fragments
}

// ethernet is a frame of an IP packet, of the type that its version says.
func ethernet(src, dst net.HardwareAddr, packet []byte) []byte {
	kind := layers.EthernetTypeIPv4
	if packet[0]>>4 == 6 {
		kind = layers.EthernetTypeIPv6
	}
	return serialize(&layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: kind}, gopacket.Payload(packet))
}

// tunnelPacket wraps an inner packet as the lab's backend does, from one node
// to another. change alters the outer IP header.
func tunnelPacket(t *testing.T, l *lab.Lab, from, to *lab.Host, packet []byte, change ...func(*layers.IPv4)) []byte {
	t.Helper()
	var ip *layers.IPv4
	header := func(protocol layers.IPProtocol) *layers.IPv4 {
		ip = ipv4(from.Addr, to.Addr, protocol)
		for _, f := range change {
			f(ip)
		}
		return ip
	}
	switch l.Options.Backend {
	case topology.EncapVXLAN:
		frame := ethernet(mac(t, from, "bpfnet0"), mac(t, to, "bpfnet0"), packet)
		return serialize(header(layers.IPProtocolUDP), noChecksum(50000, 8472), &layers.VXLAN{ValidIDFlag: true, VNI: 1}, gopacket.Payload(frame))
	case topology.EncapUDP:
		return serialize(header(layers.IPProtocolUDP), noChecksum(8285, 8285), gopacket.Payload(packet))
	}
	return serialize(header(layers.IPProtocolIPv4), gopacket.Payload(packet))
}

// noChecksum is a UDP header without one, which its length has to be filled into.
func noChecksum(from, to uint16) gopacket.SerializableLayer { return plainUDP{from, to} }

// plainUDP is a UDP header whose checksum is zero: gopacket's own computes it.
type plainUDP struct{ from, to uint16 }

func (plainUDP) LayerType() gopacket.LayerType { return layers.LayerTypeUDP }

func (u plainUDP) SerializeTo(b gopacket.SerializeBuffer, _ gopacket.SerializeOptions) error {
	length := len(b.Bytes()) + 8
	header, err := b.PrependBytes(8)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(header, u.from)
	binary.BigEndian.PutUint16(header[2:], u.to)
	binary.BigEndian.PutUint16(header[4:], uint16(length))
	binary.BigEndian.PutUint16(header[6:], 0)
	return nil
}

// send sends frames out of an interface, as they are, by one CPU, so that none
// overtakes another in the queues behind a veth, of which each CPU has its own. That a program there drops
// one, which the sender is told by ENOBUFS, is for the test to see.
func send(t *testing.T, n lab.Namespace, iface string, frames ...[]byte) {
	t.Helper()
	noError(t, n.Do(func() error {
		link, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)          //nolint:errcheck // sent is sent
		if err = stay(); err != nil { // the thread is nobody else's, and ends with this
			return err
		}
		for _, f := range frames {
			err = unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		return nil
	}))
}

// stay keeps the calling thread on one CPU from now on.
func stay() error {
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &one))
}

// sendToHost sends a packet to a host from the underlay.
func sendToHost(t *testing.T, l *lab.Lab, h *lab.Host, packet []byte) {
	t.Helper()
	router := net.HardwareAddr{2, 0, 0, 0, 0, 1} // nobody's; the host does not look
	send(t, l.Wire(), h.Name, ethernet(router, mac(t, h, lab.Uplink), packet))
}

// sendFromContainer sends a packet by a container's gateway.
func sendFromContainer(t *testing.T, h *lab.Host, c *lab.Container, packet []byte) {
	t.Helper()
	send(t, c.NS, "eth0", ethernet(macIn(t, c.NS, "eth0"), mac(t, h, h.Bridge), packet))
}

// mac is the MAC of a host's interface.
func mac(t *testing.T, h *lab.Host, iface string) net.HardwareAddr {
	t.Helper()
	return macIn(t, h.NS, iface)
}

func macIn(t *testing.T, n lab.Namespace, iface string) (mac net.HardwareAddr) {
	t.Helper()
	noError(t, n.Do(func() error {
		link, err := netlink.LinkByName(iface)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	}))
	return mac
}
