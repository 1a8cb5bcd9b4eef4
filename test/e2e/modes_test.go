// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// mode is a way packets travel between hosts, and who carries them there.
type mode struct {
	dataplane node.Dataplane
	backend   topology.Encap
}

func (m mode) String() string { return string(m.dataplane) + "-" + string(m.backend) }

// The modes. Where the kernel has no ipip device, netlink ipip is refused (TestSwitchRefused).
var (
	ebpfModes    = modesOf(node.EBPF, backends...)
	netlinkModes = modesOf(node.Netlink, switchable...)
	allModes     = slices.Concat(ebpfModes, netlinkModes)
)

func modesOf(d node.Dataplane, backends ...topology.Encap) (all []mode) {
	for _, b := range backends {
		all = append(all, mode{d, b})
	}
	return all
}

// but are the modes without those of a backend.
func but(backend topology.Encap, modes []mode) []mode {
	return slices.DeleteFunc(slices.Clone(modes), func(m mode) bool { return m.backend == backend })
}

// both are a backend's modes.
func both(backend topology.Encap) []mode {
	return []mode{{node.EBPF, backend}, {node.Netlink, backend}}
}

// modeOf is the mode of a lab whose hosts are all alike.
func modeOf(l *lab.Lab) mode { return mode{l.Options.Dataplane, l.Options.Backend} }

// in is a lab's options for a mode, changed further where change is given.
func (m mode) in(change func(*lab.Options)) func(*lab.Options) {
	return func(o *lab.Options) {
		o.Dataplane, o.Backend = m.dataplane, m.backend
		if change != nil {
			change(o)
		}
	}
}

// device is the overlay device; "" where there is none.
func (m mode) device() string {
	switch {
	case m.backend == topology.EncapNone:
		return ""
	case m == mode{node.Netlink, topology.EncapUDP}:
		return "bpfnet-tun"
	case m == mode{node.Netlink, topology.EncapIPIP}:
		return "bpfnet-ipip"
	}
	return "bpfnet0"
}

// copied are the hops that each end of the overlay takes off the TTL beside the
// kernel's own: one where a process copies the packets, as flanneld's does.
func (m mode) copied() int {
	if m == (mode{node.Netlink, topology.EncapUDP}) {
		return 1
	}
	return 0
}

// ttl is what is left of a TTL when a packet has crossed the overlay, given
// what the kernel's own hops leave of it.
func (m mode) ttl(kernel int) int { return kernel - 2*m.copied() }

// outerChecksum says whether the outer UDP header has a checksum: none by our
// programs (RFC 7348, 4.1), one by the kernel's device and by a socket.
func (m mode) outerChecksum() bool { return m.dataplane == node.Netlink }

// cuts says whether superpackets are cut before they are encapsulated: in udp
// mode the receiver may be a process, which knows of no such thing.
func (m mode) cuts() bool { return m.backend == topology.EncapUDP }

// counted are the counters that a packet moves in this mode where it moves that
// one in others: in udp mode what goes out passes through bpfnet0.
func (m mode) counted(counter string) []string {
	switch {
	case m.backend == topology.EncapUDP && counter == containerEncapsulated:
		return []string{"from_container forward/to_overlay", "from_veth forward/encapsulated"}
	case m.backend == topology.EncapUDP && counter == hostEncapsulated:
		return []string{"from_veth forward/encapsulated"}
	}
	return []string{counter}
}

// forEach runs a test with each of the modes, on a lab of its own.
func forEach(t *testing.T, modes []mode, change func(*lab.Options), f func(*testing.T, *lab.Lab)) {
	forEachUp(t, modes, change, func(t *testing.T, l *lab.Lab) {
		serveAll(t, l)
		f(t, l)
	})
}

// forEachUp is forEach without daemons.
func forEachUp(t *testing.T, modes []mode, change func(*lab.Options), f func(*testing.T, *lab.Lab)) {
	for _, m := range modes {
		t.Run(m.String(), func(t *testing.T) { f(t, up(t, m.in(change))) })
	}
}

// rfcPorts has a host's kernel take VXLAN's source ports from the range of RFC
// 7348, which is what our programs do: by itself it takes them from its own
// ports (udp_flow_src_port of include/net/udp.h).
func rfcPorts(t *testing.T, h *lab.Host) {
	t.Helper()
	run(t, h.NS, "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=49152 65535")
}

// overlayPackets are the packets that a host's overlay device has sent and received.
type overlayPackets struct{ Sent, Received uint64 }

// overlayPacketsOf reads them from the device; none where there is no device.
func overlayPacketsOf(t *testing.T, h *lab.Host, m mode) (p overlayPackets) {
	t.Helper()
	if m.device() != "" {
		s := linkOf(t, h, m.device()).Attrs().Statistics
		p = overlayPackets{s.TxPackets, s.RxPackets}
	}
	return p
}

// kernelWould translates the counters that our programs move into the packets
// that the kernel's device sends and receives in their stead.
func (m mode) kernelWould(counters []string, count int) (p overlayPackets) {
	if m.device() == "" {
		return p
	}
	for _, c := range counters {
		switch {
		case strings.HasSuffix(c, "/encapsulated"):
			p.Sent += uint64(count)
		case c == networkDelivered, c == overlayChecked:
			p.Received += uint64(count)
		}
	}
	return p
}

// expectOverlay fails the test unless f moves the counters of the overlay
// devices by what the programs' counters stand for.
func expectOverlay(t *testing.T, l *lab.Lab, count int, want [2][]string, f func()) {
	t.Helper()
	m := modeOf(l)
	var before []overlayPackets
	for i := range want {
		before = append(before, overlayPacketsOf(t, l.Hosts[i], m))
	}
	f()
	for i, counters := range want {
		wanted, moved := m.kernelWould(counters, count), overlayPackets{}
		until(t, "all are counted", func() (bool, error) { // a TUN device counts what it has handed on (tun_get_user() of drivers/net/tun.c)
			after := overlayPacketsOf(t, l.Hosts[i], m)
			moved = overlayPackets{after.Sent - before[i].Sent, after.Received - before[i].Received}
			return moved.Sent >= wanted.Sent && moved.Received >= wanted.Received, nil
		})
		equal(t, "packets of "+l.Hosts[i].Name+"'s "+m.device(), wanted, moved)
	}
}
