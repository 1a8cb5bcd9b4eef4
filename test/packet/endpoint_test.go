// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// TestEndpointIndex has a container in one of the two maps: it is found in its slot of the index, where Go has
// put it, and in the hash where the slot is empty or another's.
func TestEndpointIndex(t *testing.T) {
	m := daemonsMachine(t, daemonsState(topology.EncapVXLAN, 8472, node2), c1)
	index, hash := m.collection.Maps[bpf.DatapathMapEndpointIndex], m.collection.Maps[bpf.DatapathMapEndpoints]
	set, err := maps.NewSet(m.collection.Maps)
	must(t, err)
	entries, err := set.Endpoints.IndexEntries()
	must(t, err)
	if len(entries) != 1 || entries[0].Value.Addr != c1 {
		t.Fatalf("index %+v, want %s alone", entries, c1)
	}
	n := entries[0].Key
	var written bpf.DatapathEndpointSlot
	must(t, index.Lookup(n, &written))

	out, back := datagram{src: c1, dst: remote2}, datagram{src: remote2, dst: c1}
	tunnelled := from(node2, back.bytes())
	tunnelled.frameSrc = vtep2
	in := fromC1(out)
	works := func(t *testing.T) {
		t.Helper()
		m.expect(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, in, bpf.DatapathReasonFORWARD_ENCAPSULATED, sent(in.frame, node2, out.hop(1).bytes()))
		m.expect(t, bpf.DatapathProgramPROGRAM_FROM_NETWORK, arrives(tunnelled.bytes()), bpf.DatapathReasonFORWARD_DELIVERED, intoC1(back.hop(1).bytes()))
	}
	put := func(s bpf.DatapathEndpointSlot) { must(t, index.Update(n, &s, ebpf.UpdateExist)) }
	t.Run("both", works)
	neighbour := written
	neighbour.Addr.Word[3] += 1 << 16 // of another subnet, with the same low bits
	neighbour.Endpoint.Ifindex = link2.ifindex
	put(neighbour)
	t.Run("another's slot", works)
	put(bpf.DatapathEndpointSlot{Endpoint: neighbour.Endpoint}) // before the address is written
	t.Run("nobody's slot", works)
	put(bpf.DatapathEndpointSlot{})
	t.Run("hash", works)
	put(written)
	key := bpf.DatapathIpKey{Addr: maps.Addr(c1)}
	must(t, hash.Delete(&key))
	t.Run("index", works)
	put(bpf.DatapathEndpointSlot{})
	m.expect(t, bpf.DatapathProgramPROGRAM_FROM_CONTAINER, in, bpf.DatapathReasonPASS_UNKNOWN_SOURCE, in.frame)
}

// TestEndpointIndexOfBoth: IPv6's containers have slots of their own, whatever IPv4's are. The index alone has them here.
func TestEndpointIndexOfBoth(t *testing.T) {
	fourIn4 := tunnelV6{"4in4", topology.EncapIPIP, 4, node2, node3, node1, natNone, false}
	m := machineOf(t, fourIn4, sixInSix)
	set, err := maps.NewSet(m.collection.Maps)
	must(t, err)
	index, err := set.Endpoints.IndexUsage()
	must(t, err)
	all, err := set.Endpoints.All()
	must(t, err)
	if len(all) != 4 || index.Used != len(all) {
		t.Fatalf("%d containers, %d in the index, want 4", len(all), index.Used)
	}
	for k := range all {
		key := bpf.DatapathIpKey{Network: k.Network, Addr: maps.Addr(k.Addr)}
		must(t, m.collection.Maps[bpf.DatapathMapEndpoints].Delete(&key))
	}
	for _, tun := range []tunnelV6{fourIn4, sixInSix} {
		in := tun.datagram(tun.remote(), tun.container(), 64, 0)
		tunnelled := tun.wrap(tun.node, 0, in)
		if tun == fourIn4 {
			tunnelled = from(node3, in).bytes() // by IPIP
			tunnelled = join(tunnelled[:12], node2.AsSlice(), tunnelled[16:])
			header := ipHeader(tunnelled[:ipv4Len])
			header.setChecksum()
		}
		m.checkAllV6(t, []caseV6{{
			name: tun.name, program: bpf.DatapathProgramPROGRAM_FROM_NETWORK, in: tun.arrives(tunnelled),
			reason: bpf.DatapathReasonFORWARD_DELIVERED,
			out:    etherType(c1MAC, bridgeMAC, tun.etherType(), tun.datagram(tun.remote(), tun.container(), 63, 0)),
		}})
	}
}

// TestEndpointChanged changes what is known of a container while it sends: each packet is its own, whenever it comes.
func TestEndpointChanged(t *testing.T) {
	m := daemonsMachine(t, daemonsState(topology.EncapVXLAN, 8472, node2), c1)
	set, err := maps.NewSet(m.collection.Maps)
	must(t, err)
	known, err := set.Endpoints.All()
	must(t, err)
	key := maps.AddrKey{Addr: c1}
	endpoint, ended := known[key], make(chan error, 1)
	const packets = 5_000_000
	go func() {
		in := fromC1(datagram{src: c1, dst: netip.MustParseAddr("192.0.2.1")}) // for the kernel: may be run again
		binary.NativeEndian.PutUint32(m.context[contextIfindex:], in.ifindex)
		_, err := m.programs[bpf.DatapathProgramPROGRAM_FROM_CONTAINER].Run(&ebpf.RunOptions{
			Data: in.frame, Context: m.context, Repeat: packets,
		})
		ended <- err
	}()
	for changes := 0; ; changes++ {
		select {
		case err := <-ended:
			must(t, err)
			moved, err := m.moved()
			must(t, err)
			var counted uint64
			for key, c := range moved {
				reason := bpf.DatapathReason(key % reasonMax)
				if reason == bpf.DatapathReasonPASS_NO_ROUTE || reason == bpf.DatapathReasonPASS_NOT_ROUTED {
					counted += c.Packets
					continue
				}
				t.Errorf("%d packets are %v", c.Packets, reason)
			}
			if counted < packets || changes == 0 { // a run that a signal interrupts begins anew
				t.Errorf("%d of %d packets in %d changes", counted, packets, changes)
			}
			return
		default:
			endpoint.Gateway[5] = byte(changes)
			must(t, set.Endpoints.Put(key.Network, key.Addr, endpoint))
		}
	}
}
