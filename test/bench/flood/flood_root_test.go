// SPDX-License-Identifier: Apache-2.0

//go:build root

package flood

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// dropper is who gets rid of the packets. put has it in place on the receiver;
// what that returns tells how many it has dropped (nil: there is no telling).
type dropper struct {
	name string
	put  func(*testing.B, version, *nic) func() (uint64, error)
}

var droppers = []dropper{
	{"a bare program at native XDP", bareXDP(link.XDPDriverMode)},
	{"from_wire native", ours(bpf.FromWire, link.XDPDriverMode)},
	{"a bare program at generic XDP", bareXDP(link.XDPGenericMode)},
	{"from_wire generic", ours(bpf.FromWire, link.XDPGenericMode)},
	{"a bare program at tc", bareTC},
	{"from_network at tc", ours(bpf.FromNetwork, 0)},
	{"nft at ingress", nftables},
	{"the kernel's vxlan device, another VNI", vxlanDevice},
}

// BenchmarkFlood has each drop the flood. ns/drop is the receiving CPU's time; drops/s what one core can.
func BenchmarkFlood(b *testing.B) {
	for _, v := range []version{ipv4, ipv6} {
		for _, d := range droppers {
			b.Run(fmt.Sprintf("%s/%s", v, d.name), func(b *testing.B) { flood(b, v, d) })
		}
	}
}

func flood(b *testing.B, v version, d dropper) {
	nstest.Enter(b)
	nic := newNIC(b, v.node())
	dropped := d.put(b, v, nic)
	nic.findThread(b)
	nic.send(b, forged(v, nic.mac), 1000) // warm
	before := nic.received(b)
	gone := count(b, dropped)
	busy := nic.busy(b)
	b.ResetTimer()
	nic.send(b, forged(v, nic.mac), b.N)
	b.StopTimer()
	received := nic.received(b) - before
	each := float64(nic.busy(b)-busy) / float64(received)
	if dropped != nil && count(b, dropped)-gone != received {
		b.Fatalf("%d of %d packets were dropped", count(b, dropped)-gone, received)
	}
	b.ReportMetric(each, "ns/drop")
	b.ReportMetric(1e9/each, "drops/s")
	b.ReportMetric(float64(received)/float64(b.N), "received/sent")
	b.ReportMetric(0, "ns/op") // of the sender: of no interest
}

func count(b *testing.B, dropped func() (uint64, error)) uint64 {
	b.Helper()
	if dropped == nil {
		return 0
	}
	n, err := dropped()
	must(b, err)
	return n
}

// bare is a program that returns a verdict and nothing else.
func bare(b *testing.B, kind ebpf.ProgramType, verdict int32) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	must(b, err)
	b.Cleanup(func() { must(b, p.Close()) })
	return p
}

// Verdicts of include/uapi/linux/bpf.h and pkt_cls.h.
const (
	xdpDrop = 1
	tcShot  = 2
)

func bareXDP(mode link.XDPAttachFlags) func(*testing.B, version, *nic) func() (uint64, error) {
	return func(b *testing.B, _ version, n *nic) func() (uint64, error) {
		attachXDP(b, bare(b, ebpf.XDP, xdpDrop), n.ifindex, mode)
		return nil
	}
}

func bareTC(b *testing.B, _ version, n *nic) func() (uint64, error) {
	attachTC(b, bare(b, ebpf.SchedCLS, tcShot), n.ifindex)
	return nil
}

func attachXDP(b *testing.B, p *ebpf.Program, ifindex int, mode link.XDPAttachFlags) {
	b.Helper()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: mode})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
}

func attachTC(b *testing.B, p *ebpf.Program, ifindex int) {
	b.Helper()
	l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: ifindex, Attach: ebpf.AttachTCXIngress})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
}

// ours is a program of the datapath, as the daemon would have it: XDP in a mode, or at tc.
func ours(name string, mode link.XDPAttachFlags) func(*testing.B, version, *nic) func() (uint64, error) {
	return func(b *testing.B, v version, n *nic) func() (uint64, error) {
		d := newDatapath(b, v, n, mode)
		if mode == 0 {
			attachTC(b, d.programs.Programs[name], n.ifindex)
		} else {
			attachXDP(b, d.programs.Programs[name], n.ifindex, mode)
		}
		return func() (uint64, error) { return d.dropped(name) }
	}
}

func nftables(b *testing.B, _ version, n *nic) func() (uint64, error) {
	rules := fmt.Sprintf("table netdev flood { chain in { type filter hook ingress device %q priority 0; udp dport %d counter drop; }; }", n.name, vxlanPort)
	out, err := exec.CommandContext(b.Context(), "nft", rules).CombinedOutput()
	if err != nil {
		b.Fatalf("nft: %v: %s", err, out)
	}
	return nil
}

// vxlanDevice is of another network: the kernel reads the packet as far as its VNI (vxlan_rcv).
func vxlanDevice(b *testing.B, v version, n *nic) func() (uint64, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "vx0"
	must(b, netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: vni + 1, Port: vxlanPort, SrcAddr: v.node().Addr().AsSlice(), VtepDevIndex: n.ifindex, UDP6ZeroCSumRx: true,
	}))
	nstest.SetUp(b, "vx0")
	return nil
}

// stranger is nobody's address; the inner source is a peer's container.
func forged(v version, to topology.MAC) []byte {
	p := v.peer()
	inner := ethernetFrame(p.VTEP.MAC, vtepMAC(0), v, ipPacket(v, nth(p.Subnet, 2), nth(v.subnet(0), 2), datagram(40000, 40001, make([]byte, 64))))
	vxlan := append([]byte{8, 0, 0, 0, 0, 0, vni, 0}, inner...) // RFC 7348, 5
	outer := ipPacket(v, v.stranger(), v.node().Addr(), datagram(50000, vxlanPort, vxlan))
	return ethernetFrame(topology.MAC{2, 0, 0, 0, 0, 9}, to, v, outer)
}

func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

const liveFrames = unix.BPF_F_TEST_XDP_LIVE_FRAMES
