// SPDX-License-Identifier: Apache-2.0

//go:build root

package lab_test

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// binary is bpfnet, built once for all tests of the package.
var binary = sync.OnceValues(func() (string, error) { return lab.Build(context.Background(), tempDir) })

// upWithDaemons is a lab whose daemons are ready.
func upWithDaemons(t *testing.T, change func(*lab.Options)) *lab.Lab {
	t.Helper()
	l := up(t, func(o *lab.Options) {
		var err error
		if o.Binary, err = binary(); err != nil {
			t.Fatal(err)
		}
		o.Backend = topology.EncapVXLAN
		change(o)
	})
	if err := l.StartDaemons(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// ping pings and wants each request answered, over two routers.
func ping(t *testing.T, from lab.Namespace, to netip.Addr, count int) {
	t.Helper()
	r, err := from.Ping(t.Context(), to, lab.PingOptions{Count: count, Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]int{62}, r.TTLs()); d != "" || r.Received != count {
		t.Errorf("ping %s: %d of %d answered, TTLs: %s", to, r.Received, count, d)
	}
}

func TestDaemons(t *testing.T) {
	for _, wiring := range []lab.Wiring{lab.Bridged, lab.PerLink} {
		t.Run(string(wiring), func(t *testing.T) {
			l := upWithDaemons(t, func(o *lab.Options) { o.Wiring = wiring })
			h1, h2 := l.Hosts[0], l.Hosts[1]
			from, to := h1.Containers[0], h2.Containers[0]
			ping(t, from.NS, to.Addr, 1)
			s, err := h1.DaemonStatus(t.Context())
			if err != nil || s.Subnet != h1.Subnet || s.Node != h1.Addr {
				t.Errorf("daemon of h1 has %s on %s, error %v, want %s on %s", s.Subnet, s.Node, err, h1.Subnet, h1.Addr)
			}
			err = lab.Until(t.Context(), "the container is known", func() (bool, error) {
				now, statusErr := h1.DaemonStatus(t.Context())
				return now.Endpoints > 0, statusErr
			})
			if err != nil {
				t.Fatal(err)
			}
			before, err := h1.Counters()
			if err != nil {
				t.Fatal(err)
			}
			ping(t, from.NS, to.Addr, 10)
			after, err := h1.Counters()
			if err != nil {
				t.Fatal(err)
			}
			sent := lab.CounterKey{Program: "from_container", Verdict: "forward", Reason: "encapsulated"}
			if got := after.Since(before)[sent]; got != 10 {
				t.Errorf("%d packets counted as encapsulated, want 10", got)
			}
		})
	}
}

func TestDaemonEnds(t *testing.T) {
	l := upWithDaemons(t, func(o *lab.Options) { o.Containers = 1 })
	h := l.Hosts[1]
	if err := h.StartDaemon(t.Context()); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("second daemon on a host: %v", err)
	}
	for _, end := range []func() error{
		h.KillDaemon,
		func() error { return h.StopDaemon(t.Context()) },
	} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if h.DaemonAlive() {
			t.Fatal("the daemon is alive after its end")
		}
		if _, err := h.DaemonStatus(t.Context()); err == nil {
			t.Error("a daemon that has ended answers")
		}
		if err := end(); err != nil {
			t.Errorf("end of no daemon: %v", err)
		}
		ping(t, l.Hosts[0].Containers[0].NS, h.Containers[0].Addr, 10) // the datapath stays
		if err := h.StartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDaemonThatFails: the error is what the daemon said.
func TestDaemonThatFails(t *testing.T) {
	l := up(t, func(o *lab.Options) {
		var err error
		if o.Binary, err = binary(); err != nil {
			t.Fatal(err)
		}
	})
	err := l.Hosts[0].StartDaemon(t.Context(), "--public-ip", "nowhere")
	if err == nil || !strings.Contains(err.Error(), "ended before it was ready") || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("%v, want one line that tells why", err)
	}
	if err := l.Hosts[0].StartDaemon(t.Context(), "--nosuchflag"); err == nil || !strings.Contains(err.Error(), "nosuchflag") {
		t.Errorf("%v, want the daemon's own words", err)
	}
}

func TestHostsJoinAndLeave(t *testing.T) {
	l := upWithDaemons(t, func(o *lab.Options) { o.Backend = topology.EncapIPIP })
	h1 := l.Hosts[0]
	p, err := h1.Containers[0].NS.StartPing(t.Context(), l.Hosts[1].Containers[0].Addr, lab.PingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	third, err := l.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	if err = third.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	ping(t, third.Containers[0].NS, h1.Containers[1].Addr, 1)
	if err = l.RemoveHost(third); err != nil {
		t.Fatal(err)
	}
	r, err := p.Stop()
	if err != nil || len(r.Lost) > 0 {
		t.Errorf("ping beside it: lost %v of %d, error %v", r.Lost, r.Sent, err)
	}
}

// TestDownEndsDaemons: nothing of the datapath outlives the lab, not even where
// the lab is taken down by a process that only knows its name.
func TestDownEndsDaemons(t *testing.T) {
	l := upWithDaemons(t, func(*lab.Options) {})
	if err := lab.Down(l.Options.Name); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts {
		if h.DaemonAlive() {
			t.Errorf("daemon of %s is alive", h.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), l.Hosts[0].Dir) {
		t.Errorf("mounts left under %s", l.Hosts[0].Dir)
	}
}
