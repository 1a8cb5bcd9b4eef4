// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// seen is a packet of a row where it was seen.
type seen struct {
	lab.Packet
	lab.Decoded
	inner lab.IP // the innermost header
	back  bool   // an answer
}

// row is one cell of the matrix.
type row struct {
	*matrix
	way      way
	kind     kind
	offload  offload
	family   lab.Families
	from, to spot
	seen     map[point][]seen
	noise    map[point]uint64 // packets that are none of the row's
	before   []lab.Counters
}

const settleTimeout = 5 * time.Second

// row sends, waits until all of it has been counted, and looks at what was seen.
func (m *matrix) row(t *testing.T, w way, f lab.Families, k kind, o offload) {
	r := &row{matrix: m, way: w, kind: k, offload: o, family: f, seen: map[point][]seen{}, noise: map[point]uint64{}}
	r.from, r.to = w.ends(m, f)
	if !r.from.addr.IsValid() {
		r.from.addr = sourceOf(t, r.from.ns, r.to.addr)
	}
	noError(t, r.look()) // and forget: it was there before
	clear(r.seen)
	clear(r.noise)
	for i, h := range m.Hosts {
		r.before = append(r.before, nil)
		if m.dataplanes[i] == node.EBPF {
			r.before[i] = counters(t, h)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, k.run(ctx, r))
	r.settle(t)
	r.checkWire(t)
}

// look takes what the captures have.
func (r *row) look() error {
	for i, c := range r.captures {
		packets, err := c.Take()
		if err != nil {
			return err
		}
		for _, p := range packets {
			at := point{i.ns, i.name, p.Outgoing}
			s := seen{Packet: p, Decoded: lab.Decode(p)}
			if n := len(s.IP); n > 0 {
				s.inner = s.IP[n-1]
				there := s.inner.Src == r.from.addr && s.inner.Dst == r.to.addr
				s.back = s.inner.Src == r.to.addr && s.inner.Dst == r.from.addr
				if (there || s.back) && !s.neighbourDiscovery() {
					r.seen[at] = append(r.seen[at], s)
					continue
				}
			}
			r.noise[at]++
		}
	}
	return nil
}

// neighbourDiscovery says whether it is RFC 4861's, which has the kernels' own times.
func (s seen) neighbourDiscovery() bool {
	if len(s.ICMPv6) == 0 {
		return false
	}
	kind := s.ICMPv6[0].TypeCode.Type()
	return kind >= layers.ICMPv6TypeRouterSolicitation && kind <= layers.ICMPv6TypeRedirect
}

// at are the packets of one direction seen at a place.
func (r *row) at(p place, back bool) (all []seen) {
	for _, s := range r.seen[p(r.matrix, r.family)] {
		if s.back == back {
			all = append(all, s)
		}
	}
	return all
}

// settle waits until every packet has been counted, and has arrived everywhere.
func (r *row) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	var differs error
	err := lab.Until(ctx, "all is counted", func() (bool, error) {
		if err := r.look(); err != nil {
			return false, err
		}
		differs = errors.Join(r.checkCounters(), r.checkPieces())
		return differs == nil, nil
	})
	if err != nil {
		t.Errorf("%v: %v", err, differs)
	}
}

// checkCounters holds each counter to the packets seen where it counts. What is
// none of the row's may have been passed to the kernel, and nothing else.
func (r *row) checkCounters() (err error) {
	want := r.wantCounters()
	for i, h := range r.Hosts {
		if r.before[i] == nil {
			continue
		}
		now, e := h.Counters()
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
				if r.outerChecked() {
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
			if r.outerChecked() {
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
	case r.outerChecked() && p.kernelsToSend() && s.counter == hostEncapsulated:
		return // counted where it leaves by the overlay device
	case r.outerChecked() && p.kernelsToSend() && s.counter == containerEncapsulated:
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

// outerChecked says whether the programs make outer UDP checksums.
func (r *row) outerChecked() bool {
	return r.backend == topology.EncapVXLAN && r.Options.OuterOf(r.family) == lab.V6
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
		case at.ns != h.NS || at.outgoing:
		case at.iface == lab.Uplink:
			had["from_network"] += n
		case strings.HasPrefix(at.iface, "veth"):
			had["from_container"] += n
		}
	}
	return had
}

// piece is a packet as it is once all superpackets are cut.
type piece struct {
	Protocol   layers.IPProtocol
	ID         uint32 // of fragments
	At, Length int    // in the datagram or the stream; bytes
}

// pieces are what a packet stands for. Of TCP that is its payload.
func (s seen) pieces() (all []piece) {
	ip := s.inner
	header, at := 0, 0
	switch {
	case ip.IsFragment():
		return []piece{{ip.Protocol, ip.ID, ip.FragOffset, ip.PayloadLength()}}
	case ip.Protocol == layers.IPProtocolTCP && len(s.TCP) > 0:
		header, at = 4*int(s.TCP[0].DataOffset), int(s.TCP[0].Seq)
	case ip.Protocol == layers.IPProtocolUDP:
		header = 8
	}
	length := ip.PayloadLength() - header
	if ip.Protocol == layers.IPProtocolTCP && length == 0 {
		return nil
	}
	each := length
	if s.GSOSize > 0 {
		each = s.GSOSize
	}
	for first := 0; first == 0 || first < length; first += max(each, 1) {
		p := piece{Protocol: ip.Protocol, Length: min(each, length-first)}
		if ip.Protocol == layers.IPProtocolTCP {
			p.At = int(uint32(at + first))
		}
		all = append(all, p)
	}
	return all
}

// piecesOf are how often each piece was seen; of a stream, whose pieces may be
// sent again, that it was.
func piecesOf(packets []seen) map[piece]int {
	all := map[piece]int{}
	for _, s := range packets {
		for _, p := range s.pieces() {
			if all[p]++; p.Protocol == layers.IPProtocolTCP {
				all[p] = 1
			}
		}
	}
	return all
}

// checkPieces: wherever a packet is cut and merged on its way, it stands for the same pieces everywhere.
func (r *row) checkPieces() (err error) {
	for _, back := range []bool{false, true} {
		d, hosts := r.way.there, []int{0, 1}
		if back {
			d = r.way.back
		}
		if (r.from.ns == r.behind.NS) != back {
			hosts = []int{1, 0}
		}
		places := []place{d.first}
		if r.way.wire >= 0 {
			places = append(places, sent(hosts[0]), arrived(hosts[1]))
		}
		places = append(places, d.last)
		var want map[piece]int
		for i, p := range places {
			got := piecesOf(r.at(p, back))
			if i == 0 {
				if want = got; len(got) == 0 && !back {
					return errors.New("nothing was sent")
				}
			}
			if i == len(places)-1 && r.droppedOutside(hosts[0], hosts[1]) {
				for p := range want {
					want[p] = 1 // the intact one
				}
			}
			if !maps.Equal(want, got) {
				err = errors.Join(err, fmt.Errorf("back %v: pieces at %v (-sent +seen there):\n%s", back, p(r.matrix, r.family), cmp.Diff(want, got)))
			}
		}
	}
	return err
}

// droppedOutside says whether the receiving host drops what has a wrong checksum
// before its receiver does: the outer one reckoned from it is wrong too, which the
// kernel's device verifies.
func (r *row) droppedOutside(from, to int) bool {
	return r.kind.wrong() && r.way.wire >= 0 && r.outerChecked() && r.dataplanes[from] == node.EBPF && r.dataplanes[to] == node.Netlink
}

// checkWire holds every packet on the wire and every one that arrived to what they have to be.
func (r *row) checkWire(t *testing.T) {
	t.Helper()
	for _, back := range []bool{false, true} {
		for i := range r.Hosts {
			for _, p := range []place{sent(i), arrived(i)} {
				if err := r.checkOnWire(r.at(p, back), i, p(r.matrix, r.family).outgoing); err != nil {
					t.Errorf("%v, back %v: %v", p(r.matrix, r.family), back, err)
				}
			}
		}
	}
	last := r.way.there.last
	for _, s := range r.at(last, false) {
		if len(s.IP) > 1 || last(r.matrix, r.family) == arrived(1)(r.matrix, r.family) {
			break // on the wire
		}
		if err := r.checkArrived(s, last(r.matrix, r.family)); err != nil {
			t.Errorf("arrived: %v: %q", err, describe(s.Packet))
			return
		}
	}
}

// checkOnWire looks at what passes the uplink of a host.
func (r *row) checkOnWire(packets []seen, host int, outgoing bool) error {
	sender := host
	if !outgoing {
		sender = 1 - host
	}
	ports := map[bool]map[layers.UDPPort]bool{true: {}, false: {}}
	for _, s := range packets {
		if err := lab.VerifyChecksums(finished(s.Packet)); err != nil && !r.kind.wrong() {
			return fmt.Errorf("%w: %q", err, describe(s.Packet))
		}
		if want, got := r.wantOuter(sender, s), outerOf(s); want != got {
			return fmt.Errorf("outer header (-want +got):\n%s\n%q", cmp.Diff(want, got), describe(s.Packet))
		}
		if !s.back && r.way.wire >= 0 {
			if want := r.kind.sentTTL() - uint8(r.way.wire); s.inner.TTL != want {
				return fmt.Errorf("TTL %d on the wire, want %d: %q", s.inner.TTL, want, describe(s.Packet))
			}
		}
		if outgoing && r.offload.without(uplinks) && (s.GSOSize > 0 || s.Partial || s.Len > 14+r.Options.MTU) {
			return fmt.Errorf("left uncut or unfinished: %q", describe(s.Packet))
		}
		if len(s.VXLAN) > 0 {
			ports[s.inner.IsFragment()][s.UDP[0].SrcPort] = true
		}
	}
	// A flow's packets share a path, and so do its fragments, of which one alone has the ports. (The
	// kernel's device takes the hash that the sender's socket gave its packets, which changes.)
	kernelSent := r.outerChecked() && len(r.at(kernels(sender), false))+len(r.at(kernels(sender), true)) > 0
	if r.dataplanes[sender] == node.EBPF && !kernelSent && (len(ports[true]) > 1 || len(ports[false]) > 1) {
		return fmt.Errorf("source ports %v", ports)
	}
	return nil
}

// checkArrived looks at what has reached the receiver.
func (r *row) checkArrived(s seen, at point) error {
	frame := s.Ethernet[0]
	if at.ns == r.Hosts[1].NS { // by the overlay device: who sent it there is nobody's concern
		frame.SrcMAC = nil
	}
	if want, got := r.lastHop(at), ethernetLine(frame); want != got {
		return fmt.Errorf("frame %s, want %s", got, want)
	}
	if want := r.kind.sentTTL() - uint8(r.way.hops); s.inner.TTL != want {
		return fmt.Errorf("TTL %d, want %d", s.inner.TTL, want)
	}
	want := r.kind.tos
	if s.inner.Protocol == layers.IPProtocolTCP && s.inner.TOS&3 == 0 {
		want &^= 3 // not all of a stream is of an ECN transport (RFC 3168, 6.1)
	}
	if s.inner.TOS != want {
		return fmt.Errorf("TOS %#x, want %#x", s.inner.TOS, want)
	}
	if r.kind.wrong() {
		return nil
	}
	return lab.VerifyChecksums(s.Packet)
}

// lastHop is the frame that a packet arrives in: from who routed it last, or from its sender.
func (r *row) lastHop(at point) string {
	h2 := r.Hosts[1]
	from := iface{h2.NS, h2.Bridge}
	switch {
	case at.ns == h2.NS:
		from = iface{}
	case at.ns == r.behind.NS:
		from = iface{h2.Containers[1].NS, r.behind.Veth}
	case r.way.wire < 0:
		from = iface{r.from.ns, "eth0"}
	case slices.ContainsFunc(r.Hosts[0].Containers, func(c *lab.Container) bool { return c.NS == at.ns }):
		from = iface{r.Hosts[0].NS, r.Hosts[0].Bridge}
	}
	return fmt.Sprintf("%s > %s %v", r.macs[from], r.macs[iface{at.ns, at.iface}], ethertypes[r.family])
}

// outer is what is around an inner packet.
type outer struct {
	Frame, Inner string // Ethernet headers
	Src, Dst     string
	TTL, TOS     uint8
	DF           bool
	Protocol     layers.IPProtocol
	Length       int
	FlowLabel    bool // that there is one
	Options      int
	UDPSource    string // "flow" is of RFC 7348's range
	UDPPort      int
	UDPLength    int
	UDPChecksum  bool
	VXLAN        string
}

func ethernetLine(e *layers.Ethernet) string {
	return fmt.Sprintf("%s > %s %v", e.SrcMAC, e.DstMAC, e.EthernetType)
}

// outerOf is what a packet has around its inner one.
func outerOf(s seen) (o outer) {
	o.Frame = ethernetLine(s.Ethernet[0])
	if len(s.IP) < 2 {
		return o
	}
	ip := s.IP[0]
	o.Src, o.Dst, o.TTL, o.TOS, o.DF, o.Protocol = ip.Src.String(), ip.Dst.String(), ip.TTL, ip.TOS, ip.DF, ip.Protocol
	o.Length, o.FlowLabel, o.Options = ip.Length, ip.FlowLabel != 0, ip.Options
	if ip.Protocol == layers.IPProtocolUDP {
		u := s.UDP[0]
		o.UDPSource, o.UDPPort, o.UDPLength, o.UDPChecksum = fmt.Sprint(uint16(u.SrcPort)), int(u.DstPort), int(u.Length), u.Checksum != 0
		if u.DstPort == 8472 && u.SrcPort >= firstDynamicPort {
			o.UDPSource = "flow"
		}
	}
	if len(s.VXLAN) > 0 {
		o.VXLAN, o.Inner = fmt.Sprintf("%x", s.VXLAN[0].Contents), ethernetLine(s.Ethernet[1])
	}
	return o
}

// protocols are those of IP in IP (RFC 2003, 2473 and 4213).
var protocols = map[lab.Families]layers.IPProtocol{lab.V4: layers.IPProtocolIPv4, lab.V6: layers.IPProtocolIPv6}

// ethertypes are those of the families.
var ethertypes = map[lab.Families]layers.EthernetType{lab.V4: layers.EthernetTypeIPv4, lab.V6: layers.EthernetTypeIPv6}

// wantOuter is what the kernel's tunnels put around a packet that one host sends to the other.
func (r *row) wantOuter(sender int, s seen) outer {
	from, to := r.Hosts[sender], r.Hosts[1-sender]
	mac := func(name string, f lab.Families) string {
		return fmt.Sprintf("%s > %s %v", r.macs[iface{from.NS, name}], r.macs[iface{to.NS, name}], ethertypes[f])
	}
	if r.backend == topology.EncapNone {
		return outer{Frame: mac(lab.Uplink, r.family)}
	}
	family := r.Options.OuterOf(r.family)
	o := outer{Frame: mac(lab.Uplink, family)}
	o.Src, o.Dst = from.Node(family).String(), to.Node(family).String()
	o.Length = s.Len - 14
	o.TTL, o.TOS = 64, ecnAround[s.inner.TOS&3]
	switch r.backend {
	case topology.EncapVXLAN:
		o.Inner = mac(r.device(sender, r.family), r.family)
		o.VXLAN = "0800000000000100" // I flag, VNI 1
		o.Protocol, o.UDPSource, o.UDPPort = layers.IPProtocolUDP, "flow", 8472
	case topology.EncapIPIP:
		o.Protocol, o.TTL = protocols[r.family], s.inner.TTL
		o.DF = family == lab.V4 && (s.inner.DF || s.inner.Version == 6) // nobody cuts IPv6 (net/ipv6/sit.c)
		o.FlowLabel = family == lab.V6
	case topology.EncapUDP:
		o.Protocol, o.DF, o.UDPSource, o.UDPPort = layers.IPProtocolUDP, true, "8285", 8285
	}
	if o.Protocol == layers.IPProtocolUDP {
		o.UDPLength, o.UDPChecksum = o.Length-20, r.mode(sender).outerChecksum()
		if family == lab.V6 { // RFC 8200, 8.1
			o.UDPLength, o.UDPChecksum = o.Length-40, true
		}
	}
	return o
}

// ecnAround is the outer ECN field of each inner one: INET_ECN_encapsulate() of include/net/inet_ecn.h.
var ecnAround = [4]uint8{0, 1, 2, 2}
