// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// proofs are the pings that show the way.
const proofs = 20

// wires are the headers, in their order, that a ping has on the underlay.
var wires = map[topology.Encap][]gopacket.LayerType{
	topology.EncapNone: {layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeICMPv4},
	topology.EncapIPIP: {layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeIPv4, layers.LayerTypeICMPv4},
	topology.EncapUDP: {
		layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeUDP, layers.LayerTypeIPv4, layers.LayerTypeICMPv4,
	},
	topology.EncapVXLAN: {
		layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeUDP, layers.LayerTypeVXLAN,
		layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeICMPv4,
	},
}

// verify proves that packets go the way the mode is named for: each of some
// pings, as large as the mode lets them be, has the mode's headers on the wire,
// is counted by who is to carry it, at both hosts, and arrives with the TTL that
// this leaves.
func (s *site) verify(ctx context.Context) error {
	before, err := s.tally()
	if err != nil {
		return err
	}
	capture, err := s.lab.Wire().Capture(s.lab.Hosts[0].Name) // XDP takes packets in before they are seen on the host
	if err != nil {
		return err
	}
	pinged, err := s.from.Ping(ctx, s.addr, lab.PingOptions{
		Count: proofs, Interval: time.Millisecond, DF: true, Size: s.lab.Options.ContainerMTU() - 20 - 8,
	})
	packets, stopErr := capture.Stop()
	if err = errors.Join(err, stopErr); err != nil {
		return err
	}
	after, err := s.tally()
	if err != nil {
		return err
	}
	return errors.Join(s.verifyPings(pinged), s.verifyWire(packets), s.verifyCarrier(before, after))
}

func (s *site) verifyPings(r lab.PingResult) error {
	if r.Received != proofs {
		return fmt.Errorf("verify path: %d of %d pings of %d bytes were answered: %v",
			r.Received, proofs, s.lab.Options.ContainerMTU(), r.Errors)
	}
	if ttls := r.TTLs(); !slices.Equal(ttls, []int{s.mode.ttl}) {
		return fmt.Errorf("verify path: pings arrive with TTL %v, want %d", ttls, s.mode.ttl)
	}
	return nil
}

func (s *site) verifyWire(packets []lab.Packet) error {
	want := wires[s.mode.backend]
	as, otherwise := 0, 0
	for _, p := range packets {
		var got []gopacket.LayerType
		for _, l := range lab.Decode(p).Layers {
			got = append(got, l.LayerType())
		}
		if !slices.Contains(got, layers.LayerTypeICMPv4) {
			continue // other traffic: ARP, etcd's
		}
		if len(got) >= len(want) && slices.Equal(got[:len(want)], want) {
			as++
		} else {
			otherwise++
		}
	}
	if as < 2*proofs || otherwise > 0 {
		return fmt.Errorf("verify path: of %d pings and answers, %d were on the wire as %v and %d otherwise", 2*proofs, as, want, otherwise)
	}
	return nil
}

// tally is what a host has carried, by the mode's means and by any kernel's.
type tally struct{ carried, forwarded uint64 }

func (s *site) tally() ([]tally, error) {
	var all []tally
	for _, h := range s.lab.Hosts {
		carried, err := s.mode.carrier(h)
		forwarded, err2 := forwarding(h)
		if err = errors.Join(err, err2); err != nil {
			return nil, err
		}
		all = append(all, tally{carried, forwarded})
	}
	return all, nil
}

func (s *site) verifyCarrier(before, after []tally) error {
	for i, h := range s.lab.Hosts {
		if n := after[i].carried - before[i].carried; n < 2*proofs {
			return fmt.Errorf("verify path: %s carried %d of %d pings and answers by the means of %s", h.Name, n, 2*proofs, s.mode.Name)
		}
	}
	return s.verifyBypass(before, after)
}

// verifyBypass wants the kernel's forwarding bypassed by modes whose programs
// take packets past it: one in a hundred may be left to it.
func (s *site) verifyBypass(before, after []tally) error {
	if s.mode.dataplane != dataplaneEBPF {
		return nil
	}
	for i, h := range s.lab.Hosts {
		carried, forwarded := after[i].carried-before[i].carried, after[i].forwarded-before[i].forwarded
		if forwarded > carried/100 {
			return fmt.Errorf("verify path: on %s the kernel forwarded %d packets beside the programs' %d: they do not take the fast path",
				h.Name, forwarded, carried)
		}
	}
	return nil
}
