// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// checkCounters holds each counter to the packets seen where it counts. What is
// none of the row's may have been passed to the kernel, and nothing else.
func (r *row) checkCounters() (err error) {
	want := r.wantCounters()
	for i, h := range r.Hosts {
		if r.before[i] == nil {
			continue
		}
		now, e := lab.CountersOf(r.maps[i])
		if e != nil {
			return e
		}
		moved, noise := now.Since(r.before[i]), r.noiseOf(h)
		for key := range moved {
			want[i][key] += 0 // so that all are looked at
		}
		for key, least := range want[i] {
			most := least
			if key.Verdict == "pass" {
				most += noise[key.Program]
			}
			if key.Program == "from_host" && r.cutBehind() {
				least = min(least, 1) // a superpacket there is many packets where we look
				if r.sums(i) {
					least = 0 // and the kernel's device may have had it
				}
			}
			if moved[key] < least || moved[key] > most {
				err = errors.Join(err, fmt.Errorf("%s: %v is %d, want %d to %d", h.Name, key, moved[key], least, most))
			}
			if key.Verdict == "pass" && moved[key] > least {
				noise[key.Program] -= min(noise[key.Program], moved[key]-least)
			}
		}
	}
	return err
}

// cutBehind says whether superpackets may be cut between the programs and where
// packets are captured on the uplinks: where those have no offloads, and where the
// outer header makes them longer than a device takes (gso_features_check() of net/core/dev.c).
func (r *row) cutBehind() bool { return r.offload.without(uplinks) || r.kind.name == udpGSO }

// wantCounters are those of each host: a packet at each stage.
func (r *row) wantCounters() []lab.Counters {
	want := []lab.Counters{{}, {}}
	for _, back := range []bool{false, true} {
		d := r.way.there
		if back {
			d = r.way.back
		}
		stages := d.tunnel
		if r.backend == topology.EncapNone {
			stages = d.direct
		}
		for _, s := range stages {
			for _, p := range r.at(s.at, back) {
				r.count(want, s, p)
			}
		}
		for i := range r.Hosts {
			if r.device(i, r.family) != "" {
				want[i][counterKey(overlayChecked)] += uint64(len(r.at(overlay(i), back)))
			}
			if r.sums(i) {
				want[i][counterKey(hostChecksum)] += uint64(len(r.at(kernels(i), back)))
			}
			if r.backend == topology.EncapUDP {
				want[i][counterKey("from_veth forward/encapsulated")] += uint64(len(r.at(crossed(i), back)))
			}
		}
	}
	return want
}

// count adds what a packet at a stage moves.
func (r *row) count(want []lab.Counters, s stage, p seen) {
	counters := []string{s.counter}
	program, _, _ := strings.Cut(s.counter, " ")
	switch {
	case r.backend == topology.EncapUDP && s.counter == hostEncapsulated:
		return // counted where it crosses
	case r.backend == topology.EncapUDP && s.counter == containerEncapsulated:
		counters = []string{"from_container forward/to_overlay"}
	case r.sums(s.host) && p.kernelsToSend() && s.counter == hostEncapsulated:
		return // counted where it leaves by the overlay device
	case r.sums(s.host) && p.kernelsToSend() && s.counter == containerEncapsulated:
		counters = []string{"from_container pass/udp_checksum"}
	case program == "from_network" && len(p.VXLAN) > 0 && p.GSOSize > 0 && p.inner.Protocol == layers.IPProtocolUDP:
		counters = []string{"from_network pass/udp_superpacket"}
	case program == "from_network" && p.kernelsToVerify(r.dataplanes[1-s.host]):
		counters = []string{"from_network pass/udp_checksum"}
	}
	for _, c := range counters {
		want[s.host][counterKey(c)]++
	}
}

// sums says whether a host's programs make outer UDP checksums: over IPv6, for who takes nothing without.
func (r *row) sums(host int) bool {
	return r.backend == topology.EncapVXLAN && r.Options.OuterOf(r.family) == lab.V6 && !r.takesZeroChecksum(1-host)
}

// covered says whether the inner packet has a checksum over all of it, so that
// the outer one can be reckoned without reading it (lco_csum() of include/linux/skbuff.h).
func (s seen) covered() bool {
	return !s.inner.IsFragment() && s.inner.Options == 0 && s.inner.Protocol != layers.IPProtocolSCTP
}

// kernelsToSend says whether the kernel's device has to make the packet's outer UDP checksum.
func (s seen) kernelsToSend() bool { return s.GSOSize > 0 || !s.covered() }

// kernelsToVerify says whether it has to verify it: what has none inside, or a
// wrong one there, around which the kernel's device alone has put a right one. On a
// virtual wire what that device has sent may have its outer checksum yet to be made.
func (s seen) kernelsToVerify(sender node.Dataplane) bool {
	outerPartial := s.Partial && s.CsumStart < 14+40+8
	if len(s.VXLAN) == 0 || s.UDP[0].Checksum == 0 || s.GSOSize > 0 || outerPartial {
		return false
	}
	return !s.covered() || sender == node.Netlink && lab.VerifyChecksums(finished(s.Packet)) != nil
}

// noiseOf are the packets at a host's programs that are none of the row's, which
// these pass to the kernel.
func (r *row) noiseOf(h *lab.Host) map[string]uint64 {
	had := map[string]uint64{}
	for at, n := range r.noise {
		switch {
		case at.ns == h.NS && at.outgoing && strings.HasPrefix(at.iface, "bpfnet0"):
			had["from_host"] += n // its own reports to multicast routers (RFC 3810), and likewise
			had["from_veth"] += n // which in ipip networks has what from_host leaves
		case at.ns != h.NS || at.outgoing:
		case at.iface == lab.Uplink:
			had["from_network"] += n
		case strings.HasPrefix(at.iface, "veth"):
			had["from_container"] += n
		}
	}
	return had
}
