// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	kernel "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestRestart ends daemons under two pings of 1,000/s that cross in both
// directions, and starts them again. What they find right, they leave alone.
//
//	h1/c1 172.245.0.2  h1/c2 172.245.0.3      h2/c1 172.246.0.2  h2/c2 172.246.0.3
//	      └────── h1 .245 ───┘                      └────── h2 .246 ───┘
//	                └──────────── 192.168.32.0/24 ─────────────┘
//	           etcd in h1's daemon
func TestRestart(t *testing.T) {
	modes := append(both(topology.EncapVXLAN), mode{node.Netlink, topology.EncapNone})
	forEach(t, modes, nil, testRestart)
}

func testRestart(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	freezeMaps(t, h1)
	freezeMaps(t, h2)
	kill := func(h *lab.Host) error { return h.KillDaemon() }
	term := func(h *lab.Host) error { return h.StopDaemon(t.Context()) }
	tests := []struct {
		name  string
		hosts []*lab.Host // in the order in which they end; they start the other way round
		end   func(*lab.Host) error
	}{
		{"kill one", []*lab.Host{h2}, kill},
		{"kill all", []*lab.Host{h2, h1}, kill},
		{"term all", []*lab.Host{h2, h1}, term},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			there, back := crossing(t, h1, h2)
			before := []datapath{datapathOf(t, h1), datapathOf(t, h2)}
			events := []*kernelEvents{watchKernel(t, h1), watchKernel(t, h2)}
			for _, h := range test.hosts {
				noError(t, test.end(h))
			}
			there.more(100)
			for _, h := range slices.Backward(test.hosts) {
				noError(t, h.StartDaemon(t.Context()))
			}
			for _, h := range l.Hosts {
				waitPeers(t, h, 1)
				waitProblems(t, h)
			}
			back.more(100)
			for _, e := range events {
				e.none(t)
			}
			equal(t, "datapath", before, []datapath{datapathOf(t, h1), datapathOf(t, h2)})
			there.intact()
			back.intact()
		})
	}
}

// TestRestartWithOtherFlags starts daemons with other flags than before, under
// the same pings: what has to be made anew is put in the old one's place at once.
// That a clsact qdisc comes or goes costs a packet or two whoever does it, for
// the kernel takes the link's queues out meanwhile (qdisc_graft, net/sched/sch_api.c).
//
//	as in TestRestart
func TestRestartWithOtherFlags(t *testing.T) {
	l := serve(t, nil)
	h1, h2 := l.Hosts[0], l.Hosts[1]
	tests := []struct {
		name     string
		way      string // that programs are attached by
		same     bool   // maps as before
		lossless bool
		flags    []string
	}{
		{"maps of another size", "tcx", false, true, []string{"--max-hosts=1024", "--max-routes=512", "--max-endpoints=64"}},
		{"defaults", "tcx", false, true, nil},
		{"clsact", "clsact", true, false, []string{"--clsact"}},
		{"tcx", "tcx", true, false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			restart := func() { restartWith(t, l, test.way, test.same, test.flags...) }
			if test.lossless {
				there, back := crossing(t, h1, h2)
				restart()
				there.intact()
				back.intact()
				return
			}
			restart()
			ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 10, Interval: time.Millisecond})
		})
	}
}

// restartWith starts all daemons anew, with other flags. Then all programs are
// in place once, and the maps hold what they held, be they the same or not.
func restartWith(t *testing.T, l *lab.Lab, way string, sameMaps bool, flags ...string) {
	t.Helper()
	var before []datapath
	for _, h := range l.Hosts {
		before = append(before, datapathOf(t, h))
	}
	for _, h := range slices.Backward(l.Hosts) {
		noError(t, h.StopDaemon(t.Context()))
	}
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), flags...))
	}
	for i, h := range l.Hosts {
		waitPeers(t, h, 1)
		waitAttached(t, l, h, way)
		after := datapathOf(t, h)
		if same := before[i].Maps["hosts"] == after.Maps["hosts"]; same != sameMaps {
			t.Errorf("%s: same maps: %t, want %t", h.Name, same, sameMaps)
		}
		equal(t, "hosts", before[i].Hosts, after.Hosts)
		equal(t, "routes", before[i].Routes, after.Routes)
	}
}

// crossing are two pings of 1,000/s, one from each host, between containers of
// their own.
func crossing(t *testing.T, h1, h2 *lab.Host) (there, back *flow) {
	t.Helper()
	there = startFlow(t, h1.Containers[0], h2.Containers[0], time.Millisecond)
	back = startFlow(t, h2.Containers[1], h1.Containers[1], time.Millisecond)
	return there, back
}

// datapath is what makes a host's datapath the one it is.
type datapath struct {
	Maps     map[string]ebpf.MapID
	Links    map[string]link.ID
	Programs map[string]ebpf.ProgramID // by link
	Overlay  string                    // MAC of the overlay device
	Ifindex  int                       // of the overlay device
	File     uint64                    // inode of subnet.env
	Hosts    map[uint32]string
	Routes   []string
}

func datapathOf(t *testing.T, h *lab.Host) datapath {
	t.Helper()
	d := pinsOf(t, h)
	if len(d.Maps) == 0 {
		return d
	}
	set, err := h.Maps()
	noError(t, err)
	hosts, err := set.Hosts.All()
	noError(t, err)
	for index, host := range hosts {
		d.Hosts[index] = fmt.Sprintf("%+v", host)
	}
	routes, err := set.Routes.All()
	noError(t, err)
	for _, r := range routes {
		d.Routes = append(d.Routes, fmt.Sprintf("%+v", r))
	}
	noError(t, set.Close())
	return d
}

// pinsOf is a datapath without what the maps hold, which another version may not be able to read.
func pinsOf(t *testing.T, h *lab.Host) datapath {
	t.Helper()
	d := datapath{
		Maps: map[string]ebpf.MapID{}, Links: map[string]link.ID{}, Programs: map[string]ebpf.ProgramID{},
		Hosts: map[uint32]string{},
	}
	forEachPin(t, h, "maps", func(name, path string) {
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: name != "events"})
		noError(t, err)
		defer m.Close()
		info, err := m.Info()
		noError(t, err)
		d.Maps[name], _ = info.ID()
	})
	forEachPin(t, h, "links", func(name, path string) {
		l, err := link.LoadPinnedLink(path, nil)
		noError(t, err)
		defer l.Close()
		info, err := l.Info()
		noError(t, err)
		d.Links[name], d.Programs[name] = info.ID, info.Program
	})
	var file unix.Stat_t
	noError(t, unix.Stat(h.SubnetFile(), &file))
	d.File = file.Ino
	noError(t, h.NS.Do(func() error {
		overlay, err := overlayLink()
		if overlay != nil {
			d.Overlay, d.Ifindex = overlay.Attrs().HardwareAddr.String(), overlay.Attrs().Index
		}
		return err
	}))
	return d
}

// overlayLink is the overlay device of the calling thread's namespace; nil where there is none.
func overlayLink() (netlink.Link, error) {
	for _, name := range []string{kernel.OverlayName, kernel.TUNName, kernel.IPIPName} {
		link, err := netlink.LinkByName(name)
		if !errors.As(err, new(netlink.LinkNotFoundError)) {
			return link, err
		}
	}
	return nil, nil
}

// waitAttached waits until a host has its programs where they belong, each
// once: the kernel ends a link some time after its pin is gone.
func waitAttached(t *testing.T, l *lab.Lab, h *lab.Host, way string) {
	t.Helper()
	want := wantAttached(l, h, way)
	until(t, fmt.Sprintf("%s has %v", h.Name, want), func() (bool, error) {
		return slices.Equal(want, attached(t, h)), nil
	})
}
