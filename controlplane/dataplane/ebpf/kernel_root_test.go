// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	vnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// underlay is host 1's uplink, eth0, with host 2's MAC known, in a namespace of
// the test's own. What host 1 sends is read from the returned socket on the
// other end of the wire.
func underlay(t *testing.T) (ifindex, wire int) {
	t.Helper()
	nstest.Enter(t)
	ifindex = nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24")
	must(t, vnetlink.NeighSet(&vnetlink.Neigh{
		LinkIndex: ifindex, Family: unix.AF_INET, State: vnetlink.NUD_PERMANENT,
		IP: net.IP{192, 168, 32, 246}, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 2, 46},
	}))
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(wire) })
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	must(t, unix.Bind(wire, &unix.SockaddrLinklayer{Protocol: all, Ifindex: nstest.Link(t, "peer-eth0").Attrs().Index}))
	must(t, unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return ifindex, wire
}

// sentTo is the first IP packet on the wire that is for a UDP port.
func sentTo(t *testing.T, wire int, port uint16) []byte {
	t.Helper()
	frame := make([]byte, 2048)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		n, _, err := unix.Recvfrom(wire, frame, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		must(t, err)
		ip := frame[ethLen:n]
		if len(ip) >= ipv4Len+udpLen && ip[9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(ip[22:]) == port {
			return ip
		}
	}
	t.Fatalf("nothing was sent to port %d", port)
	return nil
}

func sendUDP(t *testing.T, local, remote string, payload []byte) {
	t.Helper()
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)),
		net.UDPAddrFromAddrPort(netip.MustParseAddrPort(remote)))
	must(t, err)
	defer conn.Close()
	_, err = conn.Write(payload)
	must(t, err)
}

// TestHeaderIsTheKernelVXLANDevices holds the header equal to what the kernel's
// device, set up for the same peer, puts on the wire; its UDP checksum aside,
// which RFC 7348, 5, would have zero and ours is.
func TestHeaderIsTheKernelVXLANDevices(t *testing.T) {
	uplink, wire := underlay(t)
	self, peer := testSelf(topology.EncapVXLAN), testPeer(topology.EncapVXLAN)
	self.Uplink, peer.Path.Ifindex = uplink, uplink
	dev, err := netlink.EnsureOverlay(self, netlink.Programs)
	must(t, err)
	problems, err := new(netlink.View).Apply(topology.State{Network: testNetwork, Self: self, Peers: []topology.Peer{peer}}, dev)
	must(t, err)
	if len(problems) > 0 {
		t.Fatalf("problems %v", problems)
	}
	sendUDP(t, "172.245.0.0:0", "172.246.0.2:9", []byte("bpfnet"))
	compareHeader(t, self, peer, withoutChecksum(sentTo(t, wire, self.Port)))
}

// TestHeaderIsFlannelsUDPSockets holds the header equal to that of a plain UDP
// socket, by which flannel's udp backend sends; the checksum aside, which we leave out.
func TestHeaderIsFlannelsUDPSockets(t *testing.T) {
	_, wire := underlay(t)
	packet := ipv4Header(253, 63, 0, netip.MustParseAddr("172.245.0.2"), netip.MustParseAddr("172.246.0.2"))
	binary.BigEndian.PutUint16(packet[2:], ipv4Len)
	sendUDP(t, "192.168.32.245:8285", "192.168.32.246:8285", packet)
	compareHeader(t, testSelf(topology.EncapUDP), testPeer(topology.EncapUDP), withoutChecksum(sentTo(t, wire, 8285)))
}

// withoutChecksum clears the UDP checksum of an IP packet.
func withoutChecksum(packet []byte) []byte {
	binary.BigEndian.PutUint16(packet[ipv4Len+6:], 0)
	return packet
}

// compareHeader takes from the packet what is the packet's own: length, IP ID and source port.
func compareHeader(t *testing.T, self topology.Self, peer topology.Peer, sent []byte) {
	t.Helper()
	h, err := hostEntry(self, peer)
	must(t, err)
	want := complete(h, inner{
		len: uint16(len(sent)) - uint16(h.HeaderLen), ttl: sent[h.HeaderLen+8],
		id: binary.BigEndian.Uint16(sent[4:]), sourcePort: binary.BigEndian.Uint16(sent[ipv4Len:]),
	})
	if diff := cmp.Diff(want, sent[:h.HeaderLen]); diff != "" {
		t.Errorf("header (-ours +the kernel's):\n%s", diff)
	}
}
