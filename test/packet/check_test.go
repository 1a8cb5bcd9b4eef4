// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/bpf"
)

// packetCase is a packet and all that has to come of it.
type packetCase struct {
	name   string
	world  *world // nil: lab
	in     arrival
	reason bpf.DatapathReason
	out    []byte    // nil: unchanged
	event  dropEvent // of a drop
}

// dropEvent is what the event of a drop tells of the packet.
type dropEvent struct{ outer, src, dst netip.Addr }

// What a program returns: include/uapi/linux/bpf.h, pkt_cls.h.
const (
	actNext     = -1
	actShot     = 2
	actRedirect = 7
)

func checkAll(t *testing.T, program bpf.DatapathProgram, cases []packetCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { check(t, program, c) })
	}
}

// check runs a case and compares all there is to see: verdict, bytes, counters, event. Then it asks
// the model, which has to be of the same opinion.
func check(t *testing.T, program bpf.DatapathProgram, c packetCase) {
	t.Helper()
	if c.world == nil {
		c.world = lab
	}
	if c.out == nil {
		c.out = c.in.frame
	}
	m := load(t, c.world)
	must(t, m.begin())
	verdict, out, err := m.run(program, c.in)
	must(t, err)
	m.checkCounters(t, program, c)
	m.checkEvents(t, program, c)
	if want := verdictOf(program, c.reason); verdict != want {
		t.Errorf("verdict %d, want %d", verdict, want)
	}
	expected := models[program](c.world, c.in)
	if expected.reason != c.reason {
		t.Errorf("the model says %s", name(expected.reason))
	}
	if broken(c.reason) {
		return
	}
	if got := m.checked(); got != expected.checked {
		t.Errorf("marked as checked: %t, want %t", got, expected.checked)
	}
	settled, err := c.world.settle(c.reason, out)
	if err != nil {
		t.Errorf("pushed header: %v\n% x", err, out)
	}
	if diff := cmp.Diff(hexLines(c.out), hexLines(settled)); diff != "" {
		t.Errorf("packet (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(hexLines(c.out), hexLines(expected.frame)); diff != "" {
		t.Errorf("packet (-want +model):\n%s", diff)
	}
}

func (m *machine) checkCounters(t *testing.T, program bpf.DatapathProgram, c packetCase) {
	t.Helper()
	moved, err := m.moved()
	must(t, err)
	got := map[string]bpf.DatapathCounter{}
	for key, count := range moved {
		got[counterName(key)] = count
	}
	want := map[string]bpf.DatapathCounter{
		counterName(counterKey(program, c.reason)): {Packets: 1, Bytes: uint64(len(c.in.frame))},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(bpf.DatapathCounter{})); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func (m *machine) checkEvents(t *testing.T, program bpf.DatapathProgram, c packetCase) {
	t.Helper()
	got, err := m.takeEvents()
	must(t, err)
	var want []bpf.DatapathEvent
	if action(c.reason) == actShot {
		want = []bpf.DatapathEvent{{
			Count:    1,
			Ifindex:  c.in.ifindex,
			Len:      uint32(len(c.in.frame)),
			Src:      seen(c.event.src),
			Dst:      seen(c.event.dst),
			OuterSrc: seen(c.event.outer),
			Program:  program,
			Reason:   c.reason,
		}}
	}
	for i := range got {
		if got[i].Time == 0 {
			t.Errorf("event without a time")
		}
		got[i].Time = 0
	}
	if diff := cmp.Diff(fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// seen is an address as an event has it, which cannot tell 0.0.0.0 from none.
func seen(a netip.Addr) bpf.DatapathAddr {
	if a == zeroAddr {
		return bpf.DatapathAddr{}
	}
	return wire(a)
}

// action is what a program returns for a reason.
func action(reason bpf.DatapathReason) int32 {
	switch {
	case reason < bpf.DatapathReasonPASS_PROTOCOL:
		return actRedirect
	case reason < bpf.DatapathReasonDROP_CONTAINER_SOURCE:
		return actNext
	}
	return actShot
}

// broken says that a packet was dropped in the middle of being changed: what is left of it is nobody's.
func broken(reason bpf.DatapathReason) bool { return reason >= bpf.DatapathReasonDROP_ENCAPSULATE }

// settle checks what is free in a pushed header, and takes it out: the IP ID, and with it the IP checksum; the flow
// label, and the source port, that have the flow's entropy, and with it the UDP checksum. It changes the bytes it is given.
func (w *world) settle(reason bpf.DatapathReason, frame []byte) ([]byte, error) {
	if reason != bpf.DatapathReasonFORWARD_ENCAPSULATED {
		return frame, nil
	}
	ip := ipHeader(frame[etherLen:])
	v := version(ip[0] >> 4)
	if v != ipv4 && v != ipv6 || !plausible(v, ip) || ip.hasOptions() || !ip.checksumOK() {
		return frame, fmt.Errorf("invalid IP header % x", ip[:ipv4Len])
	}
	to := w.hostAt(ip.dst())
	if v == ipv4 {
		ip[4], ip[5] = 0, 0
		ip.setChecksum()
	} else if to.label {
		ip[1], ip[2], ip[3] = ip[1]&0xf0, 0, 0
	}
	if to.encap != bpf.DatapathEncapENCAP_VXLAN {
		return frame, nil
	}
	udp := ip[v.headerLen():]
	if port := binary.BigEndian.Uint16(udp); port < 49152 {
		return frame, fmt.Errorf("source port %d is not in 49152 to 65535", port)
	}
	if to.needsChecksum() {
		if inner := ipHeader(udp[udpLen+vxlanLen+etherLen:]); binary.BigEndian.Uint16(udp[6:]) == 0 ||
			(tunnel{outer: ip, udp: udp, inner: inner}).udpSum(inner) > sumPartial { // which a right one is by chance
			return frame, fmt.Errorf("wrong UDP checksum % x", udp[:udpLen])
		}
		udp[6], udp[7] = 0, 0
	}
	udp[0], udp[1] = 0, 0
	return frame, nil
}

func (w *world) isVXLAN(node netip.Addr) bool {
	return w.hostAt(node).encap == bpf.DatapathEncapENCAP_VXLAN
}

// hostAt is a peer at that address: all there are tunnel alike.
func (w *world) hostAt(node netip.Addr) host {
	for _, h := range w.hosts {
		if h.node == node {
			return h
		}
	}
	return host{}
}

// hexLines is a packet for people to compare.
func hexLines(b []byte) []string {
	var lines []string
	for i := 0; i < len(b); i += 16 {
		lines = append(lines, fmt.Sprintf("%4d: % x", i, b[i:min(i+16, len(b))]))
	}
	return lines
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func counterName(key int) string {
	return fmt.Sprintf("program %d %s", key/reasonMax, name(bpf.DatapathReason(key%reasonMax)))
}
