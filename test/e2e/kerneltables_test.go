// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	kernel "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestKernelTables: people who look with ip and bridge see the peers as flannel
// would have set them up (SCENARIOS A1, A4, A5; topology as TestOverlay).
func TestKernelTables(t *testing.T) {
	forEach(t, allModes, nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		routes := map[topology.Encap]string{
			topology.EncapVXLAN: "172.246.0.0/24 via 172.246.0.0 dev bpfnet0 onlink",
			topology.EncapIPIP:  "172.246.0.0/24 via 192.168.32.246 dev " + modeOf(l).device() + " onlink",
			topology.EncapUDP:   "172.246.0.0/24 via 192.168.32.246 dev " + modeOf(l).device() + " onlink",
			topology.EncapNone:  "172.246.0.0/24 via 192.168.32.246 dev eth0 onlink",
		}
		equal(t, "overlay devices", wantDevices[modeOf(l).device()], overlayDevices(t, h1))
		equal(t, "programs", wantAttached(l, h1, kernelWay(t)), attached(t, h1))
		equal(t, "routes", []string{routes[l.Options.Backend]}, lines(run(t, h1.NS, "ip", "route", "show", "proto", "98")))
		if l.Options.Backend == topology.EncapNone {
			return
		}
		device := modeOf(l).device()
		if out := run(t, h1.NS, "ip", "-o", "-4", "address", "show", "dev", device); !strings.Contains(out, " inet 172.245.0.0/32 ") {
			t.Errorf("%s has another address: %s", device, out)
		}
		link := run(t, h1.NS, "ip", "-d", "link", "show", device)
		if want := fmt.Sprintf(" mtu %d ", l.Options.ContainerMTU()); !strings.Contains(link, want) {
			t.Errorf("%s is not%s:\n%s", device, want, link)
		}
		if l.Options.Backend == topology.EncapVXLAN {
			checkVTEP(t, h1, h2, link)
		}
	})
}

// wantDevices are the links that stand where that is the overlay device: a veth has another end.
var wantDevices = map[string][]string{
	"": nil, "bpfnet0": {"bpfnet0"}, "bpfnet-tun": {"bpfnet-tun"}, "bpfnet-ipip": {"bpfnet-ipip"},
}

// overlayDevices are the links of a host that are named as ours, without the veth's other end.
func overlayDevices(t *testing.T, h *lab.Host) (names []string) {
	t.Helper()
	noError(t, h.NS.Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if name := link.Attrs().Name; kernel.IsOverlay(name) && name != kernel.OverlayPeerName {
				names = append(names, name)
			}
		}
		return err
	}))
	return names
}

// checkVTEP holds the kernel's own entries for the peer's VTEP to what A4 and A5 show.
func checkVTEP(t *testing.T, h, peer *lab.Host, link string) {
	t.Helper()
	for _, want := range []string{" id 1 ", " local 192.168.32.245 dev eth0 ", " dstport 8472 nolearning "} {
		if !strings.Contains(link, want) {
			t.Errorf("bpfnet0 is not%s:\n%s", want, link)
		}
	}
	vtep := mac(t, peer, "bpfnet0").String()
	equal(t, "neighbours", []string{"172.246.0.0 lladdr " + vtep + " PERMANENT"}, lines(run(t, h.NS, "ip", "neigh", "show", "dev", "bpfnet0")))
	equal(t, "FDB", []string{vtep + " dst 192.168.32.246 self permanent"}, lines(run(t, h.NS, "bridge", "fdb", "show", "dev", "bpfnet0")))
}

// lines are the lines of a command's output, their columns one blank apart.
func lines(out string) (all []string) {
	for line := range strings.Lines(out) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all
}

// TestNoARPForVTEPs (SCENARIOS B3; topology as TestOverlay): from before the
// daemons start to after the first pings by the kernel's path and by ours,
// no VTEP is asked for on the wire nor on bpfnet0, and nothing is learned
// from what arrives.
func TestNoARPForVTEPs(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), nil, testNoARPForVTEPs)
}

func testNoARPForVTEPs(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	wire := []*lab.Capture{capture(t, h1.NS, lab.Uplink), capture(t, h2.NS, lab.Uplink)}
	startDaemons(t, l)
	overlay := capture(t, h1.NS, "bpfnet0")
	from, to := h1.Containers[0], h2.Containers[0]
	ping(t, from.NS, to.Addr, lab.PingOptions{Count: 1})
	ping(t, h1.NS, to.Addr, lab.PingOptions{Count: 1})
	learn(t, h1)
	ping(t, from.NS, to.Addr, lab.PingOptions{Count: 3, Interval: time.Millisecond})
	packets := stop(t, overlay)
	for _, c := range wire {
		packets = append(packets, traffic(stop(t, c))...)
	}
	if len(packets) < 2*2*5 {
		t.Errorf("%d packets captured: want the pings at least", len(packets))
	}
	for _, p := range packets {
		if d := lab.Decode(p); len(d.ICMP) == 0 {
			t.Errorf("%q", describe(p))
		}
	}
	checkVTEP(t, h1, h2, run(t, h1.NS, "ip", "-d", "link", "show", "bpfnet0"))
}
