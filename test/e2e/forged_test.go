// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// event is a line of `bpfnet maps dump events -o json`.
type event struct {
	Time        time.Time  `json:"time"`
	Program     string     `json:"program"`
	Verdict     string     `json:"verdict"`
	Reason      string     `json:"reason"`
	Length      int        `json:"length"`
	Source      netip.Addr `json:"source"`
	Destination netip.Addr `json:"destination"`
	OuterSource netip.Addr `json:"outer_source"`
}

func events(t *testing.T, h *lab.Host) (all []event) {
	t.Helper()
	noError(t, json.Unmarshal([]byte(bpfnet(t, h, "maps", "dump", "events", "-o", "json")), &all))
	return all
}

// forged is a packet that nobody may send, and the event that tells of its end.
type forged struct {
	name  string
	send  func(*testing.T)
	also  string // counted on the way to where it is dropped
	event event
}

// testForged sends h1 packets that no honest node sends, from the underlay, from
// a container and from h1 itself. Each is dropped before anybody sees it,
// counted by its reason, and told of by an event. (No program drops for one
// reason more than twice here: of the third on a CPU there is no event.)
func testForged(t *testing.T, l *lab.Lab) {
	if l.Options.Dataplane == node.Netlink {
		return // the kernel's devices take it; udptun, which does not, has a test of its own
	}
	h1, h2 := l.Hosts[0], l.Hosts[1]
	c1, c2, remote := h1.Containers[0], h1.Containers[1], h2.Containers[0]
	elsewhere := netip.MustParseAddr("172.247.0.9")
	stranger := netip.MustParseAddr("192.168.32.99")
	const payload = 30
	datagram := func(src, dst netip.Addr, tos uint8) []byte {
		return udpPacket(src, dst, 4000, 4000, randomBytes(payload), func(ip *layers.IPv4) { ip.TOS = tos })
	}
	from := func(src netip.Addr) func(*layers.IPv4) {
		return func(ip *layers.IPv4) { ip.SrcIP = src.AsSlice() }
	}
	network := func(packet []byte, change ...func(*layers.IPv4)) func(*testing.T) {
		return func(t *testing.T) { sendToHost(t, l, h1, tunnelPacket(t, l, h2, h1, packet, change...)) }
	}
	container := func(src netip.Addr) func(*testing.T) {
		return func(t *testing.T) { sendFromContainer(t, h1, c1, datagram(src, remote.Addr, 0)) }
	}
	ownTunnel := func(t *testing.T) {
		packet := tunnelPacket(t, l, h2, h1, datagram(remote.Addr, c2.Addr, 0), from(c1.Addr))
		sendFromContainer(t, h1, c1, packet)
	}
	process := func(t *testing.T) {
		send(t, h1.NS, "bpfnet0", ethernet(mac(t, h1, "bpfnet0"), mac(t, h1, "bpfnet0"), datagram(elsewhere, remote.Addr, 0)))
	}
	host := counterKey(modeOf(l).counted(hostEncapsulated)[0]).Program
	outerLen := 14 + l.Options.Overhead() + 28 + payload
	innerLen := 14 + 28 + payload
	for _, test := range []forged{
		{"unknown node", network(datagram(remote.Addr, c1.Addr, 0), from(stranger)), "",
			event{Program: "from_network", Reason: "unknown_host", Length: outerLen, Source: remote.Addr, Destination: c1.Addr, OuterSource: stranger}},
		{"another node's container", network(datagram(elsewhere, c1.Addr, 0)), "",
			event{Program: "from_network", Reason: "spoofed_source", Length: outerLen, Source: elsewhere, Destination: c1.Addr, OuterSource: h2.Addr}},
		{"our own node", network(datagram(h1.Addr, c1.Addr, 0)), "",
			event{Program: "from_network", Reason: "spoofed_source", Length: outerLen, Source: h1.Addr, Destination: c1.Addr, OuterSource: h2.Addr}},
		{"congestion on a flow without ECN", network(datagram(remote.Addr, c1.Addr, 0), func(ip *layers.IPv4) { ip.TOS = 3 }), "",
			event{Program: "from_network", Reason: "ecn", Length: outerLen, Source: remote.Addr, Destination: c1.Addr, OuterSource: h2.Addr}},
		{"container as its neighbour", container(c2.Addr), "",
			event{Program: "from_container", Reason: "container_source", Length: innerLen, Source: c2.Addr, Destination: remote.Addr}},
		{"container as another node's", container(elsewhere), "",
			event{Program: "from_container", Reason: "container_source", Length: innerLen, Source: elsewhere, Destination: remote.Addr}},
		{"our own process as another node's", process, "",
			event{Program: host, Reason: "node_source", Length: innerLen, Source: elsewhere, Destination: remote.Addr}},
		// To the kernel's own device, past from_network.
		{"container as a node", ownTunnel, containerNoRoute,
			event{Program: "from_overlay", Reason: "unchecked", Length: innerLen}},
	} {
		if test.event.Program == "from_overlay" && l.Options.Backend != topology.EncapVXLAN {
			continue // nobody listens for tunnel packets
		}
		if test.event.Program != "from_container" && l.Options.Backend == topology.EncapNone {
			continue // there is no tunnel to forge
		}
		t.Run(test.name, func(t *testing.T) { testForgedPacket(t, l, test) })
	}
}

// TestForgedPlain sends h1 what no tunnel is around, from where it may not come:
// from the underlay as from a container of h2's, where h2 sends by a tunnel, and
// as from one of h1's own; from a container as from h2's and from the internet.
//
//	as in TestOverlay
func TestForgedPlain(t *testing.T) {
	forEach(t, ebpfModes, nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		c1, c2, remote := h1.Containers[0], h1.Containers[1], h2.Containers[0]
		internet := netip.MustParseAddr("93.184.216.34")
		const length = 14 + 28 + 30
		network := func(src netip.Addr) forged {
			return forged{"network as " + src.String(), func(t *testing.T) {
				sendToHost(t, l, h1, udpPacket(src, c1.Addr, 4000, 4000, randomBytes(30)))
			}, "", event{Program: "from_network", Reason: "spoofed_source", Length: length, Source: src, Destination: c1.Addr}}
		}
		container := func(src, dst netip.Addr) forged {
			return forged{"container as " + src.String(), func(t *testing.T) {
				sendFromContainer(t, h1, c1, udpPacket(src, dst, 4000, 4000, randomBytes(30)))
			}, "", event{Program: "from_container", Reason: "container_source", Length: length, Source: src, Destination: dst}}
		}
		tests := []forged{network(c2.Addr), container(remote.Addr, c2.Addr), container(internet, remote.Addr)}
		if l.Options.Backend != topology.EncapNone {
			tests = append(tests, network(remote.Addr))
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) { testForgedPacket(t, l, test) })
		}
	})
}

// testForgedPacket sends a packet to h1, or from there.
func testForgedPacket(t *testing.T, l *lab.Lab, test forged) {
	t.Helper()
	h1, h2 := l.Hosts[0], l.Hosts[1]
	c1, c2 := h1.Containers[0], h1.Containers[1]
	test.event.Verdict = "drop"
	dropped := lab.CounterKey{Program: test.event.Program, Verdict: "drop", Reason: test.event.Reason}
	want := []lab.Counters{{dropped: 1}}
	if test.also != "" {
		want[0][counterKey(test.also)] = 1
	}
	receivers := []*lab.Capture{capture(t, c1.NS, "eth0"), capture(t, c2.NS, "eth0"), capture(t, h2.NS, lab.Uplink)}
	events(t, h1) // those of before
	expectExactly(t, l, want, func() {
		before := counters(t, h1)[dropped]
		test.send(t)
		until(t, "it is counted", func() (bool, error) { return counters(t, h1)[dropped] > before, nil })
	})
	status, err := h1.DaemonStatus(t.Context())
	noError(t, err)
	equal(t, "dropped, in the status", counters(t, h1)[dropped], status.Dropped[dropped.Program+" "+dropped.Reason])
	for _, c := range receivers {
		for _, p := range traffic(stop(t, c)) {
			if !p.Outgoing && len(lab.Decode(p).ARP) == 0 { // the kernel asks the containers now and then
				t.Errorf("it went on: %q", describe(p))
			}
		}
	}
	got := events(t, h1)
	if d := cmp.Diff([]event{test.event}, got, cmpopts.IgnoreFields(event{}, "Time"), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Fatalf("events (-want +got):\n%s", d)
	}
	if age := time.Since(got[0].Time); age < 0 || age > timeout {
		t.Errorf("event is of %v, %v ago", got[0].Time, age)
	}
}
