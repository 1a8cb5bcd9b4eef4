// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// What a test run cannot show, on real veths:
//
//	peer-c1 ── c1 [from_container] ── uplink ── peer-uplink [from_network of host 2] ── bpfnet0
//
// and with the udp encapsulation
//
//	peer-c1 ── c1 [from_container] ── bpfnet0 ── peer-bpfnet0 [from_veth] ── uplink ── …
//
// Superpackets stay whole, headers may lie in page fragments, and frames may be shorter than a header.

var farMAC = topology.MAC{0x02, 0, 0, 0, 2, 0xfe} // of peer-uplink

// jumbo is the MTU of the devices: the kernel puts a packet into page fragments only if it is larger
// than a page (packet_alloc_skb() in net/packet/af_packet.c).
const jumbo = 9000

// near is host 1 with one peer, host 2.
func near(peer host) *world {
	w := *lab
	peer.node, peer.mtu = node2, jumbo-50
	w.name, w.routes, w.hosts = "near", routesOf(0)[:2], map[uint32]host{2: peer}
	return &w
}

// far is host 2, its uplink the other end of host 1's.
var far = &world{
	name:      "far",
	node:      node2,
	overlay:   link{overlay.name, overlay.ifindex, vtep2},
	vxlanPort: 8472,
	vni:       1,
	udpPort:   8285,
	ipip:      true,
	routes: []route{
		{0, netip.MustParsePrefix("172.245.0.0/24"), 2},
		{0, netip.MustParsePrefix("172.246.0.0/24"), self},
	},
	hosts: map[uint32]host{2: {node: node1, mtu: 1450, encap: bpf.DatapathEncapENCAP_VXLAN, vtep: overlay.mac, ttl: 64}},
}

// wired are the devices up, without noise of their own, and host 2 known at the uplink.
func wired(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)) // of this namespace
	for _, l := range allLinks {
		for _, name := range []string{l.name, "peer-" + l.name} {
			device, err := netlink.LinkByName(name)
			must(t, err)
			if name == "peer-uplink" {
				must(t, netlink.LinkSetHardwareAddr(device, farMAC[:]))
			}
			must(t, netlink.LinkSetMTU(device, jumbo))
			must(t, netlink.LinkSetUp(device))
		}
	}
	must(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: int(uplink.ifindex), IP: node2.AsSlice(), HardwareAddr: farMAC[:], State: netlink.NUD_PERMANENT,
	}))
	awaitOperational(t)
}

// awaitOperational waits until every device sends what it is given: the end of a veth that was set up first
// drops it until the kernel has noticed its carrier (net/core/link_watch.c).
func awaitOperational(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		links, err := netlink.LinkList()
		must(t, err)
		down := slices.IndexFunc(links, func(l netlink.Link) bool {
			return l.Type() == "veth" && l.Attrs().OperState != netlink.OperUp
		})
		if down < 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %s", links[down].Attrs().Name, links[down].Attrs().OperState)
		}
	}
}

// started is a machine of its own, which ends with the test.
func started(t *testing.T, w *world) *machine {
	t.Helper()
	m, err := newMachine(w)
	must(t, err)
	t.Cleanup(func() { closeMachine(t, m) })
	return m
}

func closeMachine(t *testing.T, m *machine) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Errorf("close machine: %v", err)
	}
}

// attach puts a program on one side of a device: by a filter, which every kernel has.
func attach(t *testing.T, program *ebpf.Program, ifindex int, side uint32) {
	t.Helper()
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	must(t, netlink.QdiscAdd(qdisc))
	t.Cleanup(func() {
		if err := netlink.QdiscDel(qdisc); err != nil {
			t.Errorf("detach program: %v", err)
		}
	})
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: side, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          program.FD(), Name: "test", DirectAction: true,
	}))
}

func ifindexOf(t *testing.T, name string) int {
	t.Helper()
	device, err := netlink.LinkByName(name)
	must(t, err)
	return device.Attrs().Index
}

// superpackets are what the kernel is told of 20,000 bytes in segments of 1,300.
var superpackets = map[string]struct {
	header    vnetHeader
	transport func() gopacket.SerializableLayer
}{
	"tcp": {
		vnetHeader{needsCsum, gsoTCPv4, 54, 1300, atUDP, 16},
		func() gopacket.SerializableLayer { return &layers.TCP{SrcPort: 40000, DstPort: 80, ACK: true} },
	},
	"udp": {
		vnetHeader{needsCsum, gsoUDPL4, 42, 1300, atUDP, 6},
		func() gopacket.SerializableLayer { return &layers.UDP{SrcPort: 40000, DstPort: 53} },
	},
}

// TestSuperpackets: a superpacket goes whole from the container to the wire, and from the wire out of
// the tunnel: its segments keep their size, and its checksum is still to be filled in. With the udp
// encapsulation it is its segments that do, each with its checksum.
func TestSuperpackets(t *testing.T) {
	wired(t)
	for _, r := range remotes[:4] {
		for kind, super := range superpackets {
			t.Run(r.name+"/"+kind, func(t *testing.T) {
				version, err := features.LinuxVersionCode()
				must(t, err)
				if super.header.GSOType == gsoUDPL4 && version < 6<<16|2<<8 {
					t.Skip("packet sockets take UDP superpackets from kernel 6.2 on (include/linux/virtio_net.h)")
				}
				d := datagram{src: c1, dst: remote2, payload: pattern(20_000), transport: super.transport()}
				testJourney(t, r.node, d, super.header)
			})
		}
	}
}

// TestPartialChecksum: a checksum that is still to be filled in stays so, but for the udp encapsulation.
func TestPartialChecksum(t *testing.T) {
	wired(t)
	for _, r := range remotes[:4] {
		t.Run(r.name, func(t *testing.T) {
			testJourney(t, r.node, datagram{src: c1, dst: remote2}, vnetHeader{Flags: needsCsum, HeaderLen: 42, CsumStart: atUDP, CsumOffset: 6})
		})
	}
}

// TestHeadersInFragments: drivers may leave all but the Ethernet header in page fragments.
func TestHeadersInFragments(t *testing.T) {
	wired(t)
	for _, r := range remotes[:4] {
		t.Run(r.name, func(t *testing.T) {
			testJourney(t, r.node, datagram{src: c1, dst: remote2, payload: pattern(5000)}, vnetHeader{HeaderLen: etherLen})
		})
	}
	for _, tun := range tunnels {
		t.Run(tun.name+"/received", func(t *testing.T) {
			m := started(t, lab)
			attach(t, m.programs[bpf.DatapathProgramPROGRAM_FROM_NETWORK], int(uplink.ifindex), netlink.HANDLE_MIN_INGRESS)
			inside := openTap(t, int(overlay.ifindex))
			d := datagram{src: tun.container, dst: newborn, payload: pattern(5000)}
			must(t, openTap(t, ifindexOf(t, "peer-uplink")).send(vnetHeader{HeaderLen: etherLen}, arrives(from(tun.node, d.bytes()).bytes()).frame))
			_, got, err := inside.receive()
			must(t, err)
			if diff := cmp.Diff(hexLines(intoStack(d.bytes())), hexLines(got)); diff != "" {
				t.Errorf("decapsulated (-want +got):\n%s", diff)
			}
		})
	}
}

// testJourney sends a packet from c1 to host 2, which is reached as node is in the lab, and looks at
// it on the wire and behind host 2's decapsulation.
func testJourney(t *testing.T, node netip.Addr, d datagram, header vnetHeader) {
	peer := hostAt(node)
	near, far := started(t, near(peer)), started(t, far)
	attach(t, near.programs[bpf.DatapathProgramPROGRAM_FROM_CONTAINER], int(link1.ifindex), netlink.HANDLE_MIN_INGRESS)
	attach(t, far.programs[bpf.DatapathProgramPROGRAM_FROM_NETWORK], ifindexOf(t, "peer-uplink"), netlink.HANDLE_MIN_INGRESS)
	underlay, inside := openTap(t, ifindexOf(t, "peer-uplink")), openTap(t, int(overlay.ifindex))
	frame, sent := fromC1(d).frame, []datagram{d}
	if peer.encap == bpf.DatapathEncapENCAP_UDP {
		withoutChecksums(t, overlay.name)
		attach(t, near.programs[bpf.DatapathProgramPROGRAM_FROM_VETH], ifindexOf(t, "peer-"+overlay.name), netlink.HANDLE_MIN_INGRESS)
		frame, sent = unsummed(frame, header), segments(d, header)
	}
	must(t, openTap(t, ifindexOf(t, "peer-c1")).send(header, frame))
	if peer.encap == bpf.DatapathEncapENCAP_UDP {
		header = vnetHeader{}
	}
	for _, s := range sent {
		testArrival(t, near, far, underlay, inside, node, s.hop(1).bytes(), header)
	}
}

// testArrival looks at the next packet on the wire, and behind the decapsulation.
func testArrival(t *testing.T, near, far *machine, underlay, inside *tap, node netip.Addr, inner []byte, header vnetHeader) {
	t.Helper()
	peer, sent := hostAt(node), to(node, inner)
	sent.dst = node2
	wanted := sent.bytes()
	if peer.encap == bpf.DatapathEncapENCAP_NONE {
		wanted = inner
	}
	h, got, err := underlay.receive()
	must(t, err)
	got, err = near.settle(sentReason(node), got)
	must(t, err)
	compareFrames(t, "on the wire", ethernet(farMAC, uplink.mac, wanted), got)
	compareHeaders(t, "on the wire", header.behind(len(wanted)-len(inner)), h)
	if peer.encap == bpf.DatapathEncapENCAP_NONE {
		return
	}
	if peer.encap == bpf.DatapathEncapENCAP_VXLAN && header.GSOType == gsoUDPL4 {
		// Nobody could cut it into datagrams after our decapsulation.
		awaitCounted(t, far, counterKey(bpf.DatapathProgramPROGRAM_FROM_NETWORK, bpf.DatapathReasonPASS_UDP_SUPERPACKET))
		return
	}
	h, got, err = inside.receive()
	must(t, err)
	compareFrames(t, "decapsulated", ethernet(vtep2, uplink.mac, inner), got)
	compareHeaders(t, "decapsulated", header, h)
}

// withoutChecksums has a device fill in checksums, and cut superpackets, until the test ends.
func withoutChecksums(t *testing.T, device string) {
	t.Helper()
	must(t, ethtool.Change(device, map[string]bool{"tx-checksum-ip-generic": false}))
	t.Cleanup(func() {
		if err := ethtool.Change(device, map[string]bool{"tx-checksum-ip-generic": true}); err != nil {
			t.Errorf("set offloads of %s: %v", device, err)
		}
	})
}

func awaitCounted(t *testing.T, m *machine, key int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for ; time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c, err := m.counter(key)
		must(t, err)
		if c.Packets > 0 {
			return
		}
	}
	t.Errorf("%s was not counted", counterName(key))
}

func hostAt(node netip.Addr) host {
	for _, h := range peers {
		if h.node == node {
			return h
		}
	}
	return host{}
}

// behind is the header with n more bytes in front of the transport header.
func (h vnetHeader) behind(n int) vnetHeader {
	if h.Flags&needsCsum != 0 {
		h.CsumStart += uint16(n)
	}
	return h
}

func compareFrames(t *testing.T, where string, want, got []byte) {
	t.Helper()
	if diff := cmp.Diff(hexLines(want), hexLines(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", where, diff)
	}
}

// compareHeaders leaves out how much of the packet is in one piece.
func compareHeaders(t *testing.T, where string, want, got vnetHeader) {
	t.Helper()
	want.HeaderLen, got.HeaderLen = 0, 0
	if want != got {
		t.Errorf("%s: %+v, want %+v", where, got, want)
	}
}

// TestShortFrames: frames that end in the Ethernet or IP header, of which a test run takes none.
func TestShortFrames(t *testing.T) {
	wired(t)
	for _, c := range []struct {
		program bpf.DatapathProgram
		device  link
		from    string // where to send so that the program gets it
		side    uint32
		frame   []byte
	}{
		{bpf.DatapathProgramPROGRAM_FROM_CONTAINER, link1, "peer-c1", netlink.HANDLE_MIN_INGRESS, fromC1(datagram{src: c1, dst: remote2}).frame},
		{bpf.DatapathProgramPROGRAM_FROM_NETWORK, uplink, "peer-uplink", netlink.HANDLE_MIN_INGRESS, arrives(ipip3).frame},
		{bpf.DatapathProgramPROGRAM_FROM_HOST, overlay, overlay.name, netlink.HANDLE_MIN_EGRESS, fromHost(datagram{src: vtepAddr, dst: remote2}).frame},
	} {
		t.Run(c.from, func(t *testing.T) {
			m := started(t, lab)
			attach(t, m.programs[c.program], int(c.device.ifindex), c.side)
			tap := openTap(t, ifindexOf(t, c.from))
			for n := etherLen; n < testRunMin; n++ {
				must(t, tap.send(vnetHeader{}, c.frame[:n]))
				m.waitCounted(t, counterKey(c.program, bpf.DatapathReasonPASS_MALFORMED), n)
			}
		})
	}
}

// TestVLANTagBesides: the kernel takes a VLAN tag out of the frame before the programs see it, and
// then the frame looks as if it had none.
func TestVLANTagBesides(t *testing.T) {
	wired(t)
	tagged := func(frame []byte) []byte { return join(frame[:12], []byte{0x81, 0, 0, 5}, frame[12:]) }
	for _, c := range []struct {
		program bpf.DatapathProgram
		device  link
		frame   []byte
	}{
		{bpf.DatapathProgramPROGRAM_FROM_CONTAINER, link1, fromC1(datagram{src: c1, dst: remote2}).frame},
		{bpf.DatapathProgramPROGRAM_FROM_NETWORK, uplink, arrives(from(node3, ipip3).bytes()).frame},
	} {
		t.Run(c.device.name, func(t *testing.T) {
			m := started(t, lab)
			attach(t, m.programs[c.program], int(c.device.ifindex), netlink.HANDLE_MIN_INGRESS)
			must(t, openTap(t, ifindexOf(t, "peer-"+c.device.name)).send(vnetHeader{}, tagged(c.frame)))
			m.waitCounted(t, counterKey(c.program, bpf.DatapathReasonPASS_PROTOCOL), len(c.frame))
		})
	}
}

// waitCounted waits until some counter has moved, and expects it to be that one, by a packet of n bytes.
func (m *machine) waitCounted(t *testing.T, key, n int) {
	t.Helper()
	total, want := map[int]bpf.DatapathCounter{}, map[int]bpf.DatapathCounter{key: {Packets: 1, Bytes: uint64(n)}}
	for deadline := time.Now().Add(patience); !maps.Equal(total, want) && len(total) < 2; runtime.Gosched() {
		if time.Now().After(deadline) {
			break
		}
		moved, err := m.moved()
		must(t, err)
		for k, c := range moved { // one that is being counted may have the packet, and not yet its bytes
			total[k] = bpf.DatapathCounter{Packets: total[k].Packets + c.Packets, Bytes: total[k].Bytes + c.Bytes}
		}
	}
	if !maps.Equal(total, want) {
		t.Errorf("%d bytes counted as %s", n, counterNames(total))
	}
}
