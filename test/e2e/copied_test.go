// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestCopierGone ends the daemon of h2, and of both hosts, where it is the
// daemon that copies the packets: the udp network of the netlink dataplane.
// Nothing leaves the overlay bare meanwhile, for the routes stay, and all goes
// on when it is back.
//
//	as in TestRestart
func TestCopierGone(t *testing.T) {
	m := mode{node.Netlink, topology.EncapUDP}
	l := serve(t, m.in(nil))
	h1, h2 := l.Hosts[0], l.Hosts[1]
	for _, test := range []struct {
		name  string
		hosts []*lab.Host // in the order in which they end; they start the other way round
		end   func(*lab.Host) error
	}{
		{"kill one", []*lab.Host{h2}, func(h *lab.Host) error { return h.KillDaemon() }},
		{"kill all", []*lab.Host{h2, h1}, func(h *lab.Host) error { return h.KillDaemon() }},
		{"term one", []*lab.Host{h2}, func(h *lab.Host) error { return h.StopDaemon(t.Context()) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			flow := startFlow(t, h2.Containers[0], h1.Containers[0], time.Millisecond)
			before := []datapath{datapathOf(t, h1), datapathOf(t, h2)}
			views := viewsOf(t, l)
			for _, h := range test.hosts {
				noError(t, test.end(h))
			}
			wire := capture(t, h2.NS, lab.Uplink)
			sent := flow.ping.Snapshot().Sent
			until(t, "100 more pings are sent", func() (bool, error) { return flow.ping.Snapshot().Sent >= sent+100, nil })
			for _, p := range stop(t, wire) {
				// What was on its way to h2 in the tunnel may still arrive.
				if d := lab.Decode(p); len(d.IPv4) > 0 && (inNetwork(d.IPv4[0].SrcIP) || inNetwork(d.IPv4[0].DstIP)) {
					t.Errorf("bare at h2 while nobody copies: %q", describe(p))
				}
			}
			equal(t, "tables while nobody copies", views, viewsOf(t, l))
			for i := range test.hosts {
				noError(t, test.hosts[len(test.hosts)-1-i].StartDaemon(t.Context()))
			}
			flow.more(100)
			equal(t, "device and file", before, []datapath{datapathOf(t, h1), datapathOf(t, h2)})
			r, err := flow.end()
			noError(t, err)
			equal(t, "TTLs", []int{m.ttl(62)}, r.TTLs())
			equal(t, "duplicates, reordered, damaged", [3]int{}, [3]int{r.Duplicates, r.Reordered, r.Damaged})
			if len(r.Lost) < 100 {
				t.Errorf("%d pings lost, %d sent while nobody copied them", len(r.Lost), 100)
			}
		})
	}
}

// TestCopierDelayed stops the daemon of h2 for a second, as a machine that is busy does, where it
// copies the packets: they wait for it.
//
//	as in TestRestart
func TestCopierDelayed(t *testing.T) {
	m := mode{node.Netlink, topology.EncapUDP}
	l := serve(t, m.in(nil))
	h1, h2 := l.Hosts[0], l.Hosts[1]
	there, back := crossing(t, h1, h2)
	there.ttl, back.ttl = m.ttl(there.ttl), m.ttl(back.ttl)
	pid, sent := daemonPID(t, h2), back.ping.Snapshot().Sent
	noError(t, unix.Kill(pid, unix.SIGSTOP))
	until(t, "1,000 more pings are sent", func() (bool, error) { return back.ping.Snapshot().Sent >= sent+1000, nil })
	noError(t, unix.Kill(pid, unix.SIGCONT))
	there.more(100)
	back.more(100)
	there.intact()
	back.intact()
}

func viewsOf(t *testing.T, l *lab.Lab) (all []view) {
	t.Helper()
	for _, h := range l.Hosts {
		v, err := viewOf(h)
		noError(t, err)
		all = append(all, v)
	}
	return all
}
