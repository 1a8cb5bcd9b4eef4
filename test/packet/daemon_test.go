// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"net/netip"
	"testing"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// TestDaemonsMaps runs packets by what the daemon writes into the maps: the tables' worlds are laid
// out by the tests themselves. One network of each encapsulation, there and back.
func TestDaemonsMaps(t *testing.T) {
	for _, c := range []struct {
		encap topology.Encap
		port  uint16
		node  netip.Addr // the peer of the lab with that encapsulation
	}{
		{topology.EncapVXLAN, 8472, node2},
		{topology.EncapIPIP, 0, node3},
		{topology.EncapUDP, 8285, node4},
		{topology.EncapNone, 0, node5},
	} {
		t.Run(string(c.encap), func(t *testing.T) {
			m := daemonsMachine(t, daemonsState(c.encap, c.port, c.node), c1)
			out := datagram{src: c1, dst: remote2}
			in := fromC1(out)
			handed := handedOn(in.frame, c.node, out.hop(1).bytes())
			m.expect(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, in, handedOnReason(c.node), handed)
			if c.encap == topology.EncapUDP {
				crossed := arrival{frame: handed, ifindex: overlay.ifindex}
				m.expect(t, bpf.DatapathProgramPROGRAM_FROM_VETH, crossed, sentReason(c.node), sent(handed, c.node, out.hop(1).bytes()))
			}
			back := datagram{src: remote2, dst: c1}
			packet := back.bytes()
			if c.node != node5 {
				tunnelled := from(c.node, packet)
				tunnelled.frameSrc = vtep2
				packet = tunnelled.bytes()
			}
			m.expect(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, arrives(packet), bpf.DatapathReasonFORWARD_DELIVERED, intoC1(back.hop(1).bytes()))
		})
	}
}

// daemonsState is host 1 with one peer.
func daemonsState(encap topology.Encap, port uint16, node netip.Addr) topology.State {
	return topology.State{
		Network: netip.MustParsePrefix("172.244.0.0/14"),
		Self: topology.Self{
			Subnet: netip.MustParsePrefix("172.245.0.0/24"), Node: node1, Uplink: int(uplink.ifindex), Encap: encap,
			VTEP: topology.VTEP{MAC: overlay.mac, Addr: vtepAddr}, VNI: 1, Port: port, MTU: 1400,
		},
		Peers: []topology.Peer{{
			Key: "172.246.0.0-24", Subnet: netip.MustParsePrefix("172.246.0.0/24"), Node: node, Encap: encap,
			VTEP: topology.VTEP{MAC: vtep2, Addr: netip.MustParseAddr("172.246.0.0")},
			Path: topology.Path{Ifindex: int(uplink.ifindex), NextHop: node, MTU: 1500},
		}},
	}
}

// daemonsMachine is a machine whose settings and maps the daemon's code has filled from the state, with
// the first container at that address.
func daemonsMachine(t *testing.T, s topology.State, container netip.Addr) *machine {
	t.Helper()
	settings := dataplane.Settings(false, dataplane.Network{
		Self: s.Self, Prefix: s.Network, SubnetLen: s.Self.Subnet.Bits(),
		Overlay: dataplane.Overlay{Ifindex: int(overlay.ifindex), MAC: s.Self.VTEP.MAC},
	})
	m, err := emptyMachine(lab, &settings)
	must(t, err)
	t.Cleanup(func() { closeMachine(t, m) })
	set, err := maps.NewSet(m.collection.Maps)
	must(t, err)
	d, err := dataplane.New(set, 0, 1)
	must(t, err)
	must(t, d.Apply(s))
	endpoints, err := dataplane.NewEndpoints(set, 0)
	must(t, err)
	must(t, endpoints.Apply([]containers.Endpoint{{Addr: container, Ifindex: int(link1.ifindex), MAC: c1MAC, Gateway: bridgeMAC}}))
	return m
}

// expect runs a packet and compares verdict, counters and bytes.
func (m *machine) expect(t *testing.T, program bpf.DatapathProgram, in arrival, reason bpf.DatapathReason, out []byte) {
	t.Helper()
	verdict, got, err := m.run(program, in)
	must(t, err)
	c := packetCase{in: in, reason: reason}
	m.checkCounters(t, program, c)
	if verdict != action(reason) {
		t.Errorf("verdict %d, want %d", verdict, action(reason))
	}
	got, err = m.settle(reason, got)
	must(t, err)
	compareFrames(t, name(reason), out, got)
}
