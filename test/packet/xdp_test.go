// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The lab on a node with XDP on its uplink: natively, in generic mode, with IPIP spread over CPUs.
var (
	native  = lab.with("native", func(w *world) { w.uplinkMAC, w.wireMAC = uplink.mac, wireMAC })
	generic = lab.with("generic", func(w *world) { w.uplinkMAC = uplink.mac })
	spread  = native.with("spread", func(w *world) { w.spread = 1 })
	over2   = native.with("spread over two", func(w *world) { w.spread = 2 })
	// On a node that translates connections.
	nativeNAT = native.with("native, natted", func(w *world) { w.nat, w.conntrack = bpf.DatapathNatModeNAT_CONNTRACK, true })
)

func TestFromWire(t *testing.T) {
	checkAll(t, bpf.DatapathProgramPROGRAM_FROM_WIRE, tables()[bpf.DatapathProgramPROGRAM_FROM_WIRE])
}

// TestFromWireLikeFromNetwork: all that from_network is tested by, at XDP; and what XDP changes goes on
// to from_network, of which comes what would have come without XDP, but that a packet out of its
// tunnel cannot be left to the kernel's tunnel device.
func TestFromWireLikeFromNetwork(t *testing.T) {
	for _, w := range []*world{native, generic, spread, nativeNAT} {
		m := load(t, w)
		must(t, m.begin())
		for _, c := range tables()[bpf.DatapathProgramPROGRAM_FROM_NETWORK] {
			if !c.in.runnable() || c.in.gsoSize != 0 {
				continue
			}
			if err := m.compare(bpf.DatapathProgramPROGRAM_FROM_WIRE, c.in); err != nil {
				t.Errorf("%s, %s: %v", w.name, c.name, err)
				continue
			}
			left := w.fromWire(c.in)
			if left.reason != bpf.DatapathReasonFORWARD_DECAPSULATED || len(left.frame) < testRunMin {
				continue
			}
			in := arrival{frame: left.frame, ifindex: c.in.ifindex}
			if err := m.compare(bpf.DatapathProgramPROGRAM_FROM_NETWORK, in); err != nil {
				t.Errorf("%s, %s, from_network: %v", w.name, c.name, err)
			}
			direct, own := w.fromNetwork(c.in), w.fromNetwork(in)
			ethernetHeader(own.frame).setSrc(topology.MAC(direct.frame[6:12]))
			if own.reason == direct.reason && !slices.Equal(own.frame, direct.frame) {
				t.Errorf("%s, %s: in two steps\n% x\nin one\n% x", w.name, c.name, own.frame, direct.frame)
			}
		}
		must(t, m.recount())
	}
}

// What an XDP program returns: include/uapi/linux/bpf.h.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

// verdictOf is what a program returns for a reason.
func verdictOf(program bpf.DatapathProgram, reason bpf.DatapathReason) int32 {
	tc := action(reason)
	switch {
	case program != bpf.DatapathProgramPROGRAM_FROM_WIRE:
		return tc
	case tc == actShot:
		return xdpDrop
	case reason == bpf.DatapathReasonFORWARD_SPREAD:
		return xdpRedirect
	}
	return xdpPass
}

func wireCases() []packetCase {
	var cases []packetCase
	add := func(w *world, name string, in arrival, reason bpf.DatapathReason, out []byte) {
		cases = append(cases, packetCase{name: w.name + "/" + name, world: w, in: in, reason: reason, out: out})
	}
	for _, tun := range tunnels {
		d := datagram{src: tun.container, dst: c1}
		in := arrives(from(tun.node, d.bytes()).bytes())
		out := ethernet(uplink.mac, wireMAC, d.bytes())
		add(native, tun.name, in, bpf.DatapathReasonFORWARD_DECAPSULATED, out)
		add(native, tun.name+"/padded", arrival{frame: join(in.frame, make([]byte, 9)), ifindex: uplink.ifindex},
			bpf.DatapathReasonFORWARD_DECAPSULATED, join(out, make([]byte, 9)))
		add(generic, tun.name, in, bpf.DatapathReasonPASS_CHECKED, nil)
		add(native, tun.name+"/another machine's", arrival{frame: patched(in.frame, patch{0, vtep7[:]}), ifindex: uplink.ifindex},
			bpf.DatapathReasonPASS_NOT_ROUTED, nil)
		big := d.sized(frameMax - tun.headerLen - etherLen)
		add(native, tun.name+"/jumbo", arrives(from(tun.node, big.bytes()).bytes()),
			bpf.DatapathReasonFORWARD_DECAPSULATED, ethernet(uplink.mac, wireMAC, big.bytes()))
		if tun.name != "ipip" {
			add(spread, tun.name, in, bpf.DatapathReasonFORWARD_DECAPSULATED, out)
			continue
		}
		for kind, d := range carried(tun.container, c1, 1400) {
			add(spread, "ipip/"+kind, arrives(from(tun.node, d.bytes()).bytes()), bpf.DatapathReasonFORWARD_SPREAD, nil)
		}
	}
	forged := arrival{frame: ethernet(uplink.mac, wireMAC, datagram{src: remote2, dst: c1}.bytes()), ifindex: uplink.ifindex}
	for _, w := range []*world{native, spread} {
		add(w, "the mark from the wire", forged, bpf.DatapathReasonDROP_WIRE_MAC, nil)
	}
	add(generic, "the mark from the wire", forged, bpf.DatapathReasonPASS_NOT_OURS, nil)
	return cases
}

// networkUnwrapped: what from_wire has taken out of its tunnel, at tc.
func networkUnwrapped() []packetCase {
	own := func(d datagram) arrival {
		return arrival{frame: ethernet(uplink.mac, wireMAC, d.bytes()), ifindex: uplink.ifindex}
	}
	host := func(d datagram) []byte { return ethernet(overlay.mac, uplink.mac, d.bytes()) }
	d := datagram{src: remote2, dst: c1}
	cases := []packetCase{
		{name: "from_wire/to container", world: native, in: own(d), reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(d.hop(1).bytes())},
		{name: "from_wire/where it is not in use", world: generic, in: own(d), reason: bpf.DatapathReasonPASS_NOT_OURS},
		{
			name: "from_wire/superpacket", world: native, in: superpacket(own(d), 30),
			reason: bpf.DatapathReasonFORWARD_DELIVERED, out: intoC1(d.hop(1).bytes()),
		},
		{
			name: "from_wire/truncated", world: native, reason: bpf.DatapathReasonDROP_TUNNEL_MALFORMED,
			in: arrival{frame: own(d).frame[:testRunMin], ifindex: uplink.ifindex},
		},
	}
	options := d
	options.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
	for name, d := range map[string]datagram{
		"not learned": {src: remote2, dst: newborn}, "own bridge": {src: remote2, dst: bridge}, "TTL 1": d.withTTL(1), "options": options,
	} {
		cases = append(cases, packetCase{
			name: "from_wire/to host, " + name, world: native, in: own(d), reason: bpf.DatapathReasonFORWARD_TO_HOST, out: host(d),
		})
	}
	for name, d := range untellable(remote2, c1) {
		cases = append(cases, packetCase{
			name: "from_wire/perhaps translated, " + name, world: nativeNAT, in: own(d),
			reason: bpf.DatapathReasonFORWARD_TO_HOST, out: host(d),
		})
	}
	return cases
}

// TestSpread: packets of a flow go to one CPU, flows to all; fragments by their addresses alone. Of
// two CPUs one has no queue, and what would go there stays.
func TestSpread(t *testing.T) {
	m := load(t, over2)
	slot := func(d datagram) int32 {
		t.Helper()
		verdict, _, err := m.run(bpf.DatapathProgramPROGRAM_FROM_WIRE, arrives(from(node3, d.bytes()).bytes()))
		must(t, err)
		return verdict
	}
	flow := func(port int) datagram {
		return datagram{src: remote3, dst: c1, transport: &layers.UDP{SrcPort: layers.UDPPort(port), DstPort: 53}}
	}
	const flows = 64
	seen := map[int32]int{}
	for port := range flows {
		d := flow(40000 + port)
		first := slot(d)
		seen[first]++
		d.id++
		d.tos = 8
		if again := slot(d.sized(901)); again != first {
			t.Errorf("port %d: one packet to slot %d, the next to %d", 40000+port, first, again)
		}
	}
	if len(seen) != 2 || min(seen[xdpPass], seen[xdpRedirect]) < flows/4 {
		t.Errorf("verdicts of %d flows: %v, want both, each often", flows, seen)
	}
	fragment := flow(1)
	fragment.flags = layers.IPv4MoreFragments
	first := slot(fragment)
	for port := range flows {
		later := flow(port)
		later.flags, later.offset = 0, 100
		if got := slot(later); got != first {
			t.Errorf("fragments of one pair of addresses: %d and %d", first, got)
		}
	}
}

// BenchmarkForged is what a program takes to drop a forged tunnel packet, by the kernel's own
// measurement. A packet that is dropped is as it was, so that one run may follow the other.
func BenchmarkForged(b *testing.B) {
	forged := from(node2, datagram{src: remote2, dst: c1}.bytes())
	forged.src = stranger
	for _, program := range []bpf.DatapathProgram{
		bpf.DatapathProgramPROGRAM_FROM_NETWORK, bpf.DatapathProgramPROGRAM_FROM_WIRE,
	} {
		p := load(b, native).programs[program]
		frame := arrives(forged.bytes()).frame
		if program == bpf.DatapathProgramPROGRAM_FROM_NETWORK {
			ethernetHeader(frame).setDst(topology.MAC{}) // loopback's, where the kernel takes the packet to have come in
		}
		b.Run(p.String(), func(b *testing.B) {
			verdict, each, err := p.Benchmark(frame, b.N, nil)
			must(b, err)
			if want := verdictOf(program, bpf.DatapathReasonDROP_UNKNOWN_HOST); int32(verdict) != want {
				b.Fatalf("verdict %d, want %d", int32(verdict), want)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/packet")
		})
	}
}
