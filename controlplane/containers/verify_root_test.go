// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// follow is a watcher of the node's containers until the test ends; its states come by the channel.
func follow(n *space, every time.Duration) <-chan State { return followOf(n, subnet, every) }

func followOf(n *space, subnet netip.Prefix, every time.Duration) <-chan State {
	states := make(chan State, 100)
	w := watcher{
		machines: newMachines([]netip.Prefix{subnet}, nil), log: slog.New(slog.DiscardHandler), buffer: receiveBuffer, every: every,
		deliver: func(s State) error { states <- s; return nil },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.do(func() error { return w.run(ctx) }) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			n.t.Error(err)
		}
	})
	return states
}

// awaitPlaces waits until the endpoints are one of these lists, each endpoint
// as "address at ifindex".
func awaitPlaces(t *testing.T, states <-chan State, what string, want ...[]string) {
	t.Helper()
	var got []string
	for deadline := time.After(patience); ; {
		select {
		case s := <-states:
			got = nil
			for _, e := range s.Endpoints {
				got = append(got, fmt.Sprintf("%s at %d", e.Addr, e.Ifindex))
			}
		case <-deadline:
			t.Fatalf("%s: endpoints %s, want one of %s", what, got, want)
		}
		if slices.ContainsFunc(want, func(w []string) bool { return slices.Equal(w, got) }) {
			return
		}
	}
}

// An address moves to another container, and neither says a word: the first is
// asked, does not answer, and is no longer where the address is looked for.
func TestVerifyFindsAnAddressGone(t *testing.T) {
	n, a, b := bridged(t)
	n.sysctl("ipv4/neigh/br245/delay_first_probe_time", "1")
	states := follow(n, 10*time.Millisecond)
	two, three := fmt.Sprintf("172.245.0.2 at %d", n.index("vethA")), fmt.Sprintf("172.245.0.3 at %d", n.index("vethB"))
	found := []string{two, fmt.Sprintf("172.245.0.3 at %d", n.index("vethA"))}
	awaitPlaces(t, states, "before", []string{two, three})
	b.must(b.AddrDel(b.link("eth0"), ipAddr("172.245.0.3/24")))
	a.must(a.AddrAdd(a.link("eth0"), ipAddr("172.245.0.3/24")))
	// Nowhere, until there is a packet for it; the last request may be one already.
	awaitPlaces(t, states, "moved", []string{two}, found)
	n.speak("172.245.0.3")
	awaitPlaces(t, follow(n, time.Hour), "looked for", found) // a second Watch, for the first may have told already
}

// listed is a watcher with what the kernel holds, as soon as it knows where both containers are.
func listed(n *space, o Options, subnet netip.Prefix) *watcher {
	n.t.Helper()
	w := &watcher{machines: newMachines(o.Subnets, nil), every: time.Hour}
	n.must(n.do(func() error {
		for deadline := time.Now().Add(patience); len(w.machines[0].endpoints) < 2; {
			all, err := list(n.t.Context(), subnet)
			if err == nil && time.Now().After(deadline) {
				err = fmt.Errorf("found endpoints %v alone", w.machines[0].endpoints)
			}
			if err != nil {
				return err
			}
			w.machines[0].reset(all)
		}
		return nil
	}))
	return w
}

// verifyNow has the kernel doubt the containers.
func verifyNow(n *space, o Options, subnet netip.Prefix) {
	n.t.Helper()
	w := listed(n, o, subnet)
	n.must(n.do(func() error { w.verify(); return nil }))
}

// The kernel is made to doubt what it has learned, but not what was set by hand.
func TestVerifyLeavesFixedNeighboursAlone(t *testing.T) {
	n, a, b := bridged(t)
	set := func(addr string, c *space, state int) {
		n.must(n.NeighSet(&netlink.Neigh{LinkIndex: n.index("br245"), State: state,
			IP: net.ParseIP(addr), HardwareAddr: c.link("eth0").Attrs().HardwareAddr}))
	}
	set("172.245.0.2", a, unix.NUD_STALE)
	set("172.245.0.3", b, unix.NUD_PERMANENT)
	verifyNow(n, options, subnet)
	all, err := n.NeighList(n.index("br245"), unix.AF_INET)
	n.must(err)
	got := map[string]int{}
	for _, e := range all {
		if a, _ := netip.AddrFromSlice(e.IP); subnet.Contains(a) {
			got[a.String()] = e.State
		}
	}
	want := map[string]int{"172.245.0.2": unix.NUD_DELAY, "172.245.0.3": unix.NUD_PERMANENT}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

// A port with a lower MAC gives the bridge that MAC. The containers hear of it
// at once, though they are sent nothing but by the fast path. Until they do they
// send to the MAC that it had, and that is what is said of them.
func TestVerifyTellsTheGatewaysNewMAC(t *testing.T) {
	n, a, b := bridgedBy(t, nil)
	states := follow(n, time.Hour)
	awaitPlaces(t, states, "before",
		[]string{fmt.Sprintf("172.245.0.2 at %d", n.index("vethA")), fmt.Sprintf("172.245.0.3 at %d", n.index("vethB"))})
	high, low := n.mac("br245"), topology.MAC{2, 0, 0, 0, 0, 1}
	const deaf = "8" // to requests for any address, Documentation/networking/ip-sysctl
	b.sysctl("ipv4/conf/eth0/arp_ignore", deaf)
	n.addPort("low", low[:])
	awaitGateways(t, states, "one is told", low, high)
	awaitNeighbour(a, low)
	b.sysctl("ipv4/conf/eth0/arp_ignore", "0")
	awaitGateways(t, states, "both are told", low, low)
	awaitNeighbour(b, low)
}

// awaitGateways waits until the endpoints have these gateways, in order. States that say too soon that all are told
// leave out what it waits for, and it fails.
func awaitGateways(t *testing.T, states <-chan State, what string, want ...topology.MAC) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case s := <-states:
			var got []topology.MAC
			for _, e := range s.Endpoints {
				got = append(got, e.Gateway)
			}
			if slices.Equal(got, want) {
				return
			}
		case <-deadline:
			t.Fatalf("%s: never were the gateways %s", what, want)
		}
	}
}

// awaitNeighbour waits until a container knows its gateway, and nobody else, by that MAC.
func awaitNeighbour(c *space, want topology.MAC) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		all, err := c.NeighList(c.index("eth0"), unix.AF_INET)
		c.must(err)
		if len(all) == 1 && all[0].HardwareAddr.String() == want.String() {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("a container's neighbours are %v, want its gateway at %s", all, want)
		}
	}
}
