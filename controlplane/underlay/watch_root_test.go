// SPDX-License-Identifier: Apache-2.0

//go:build root

package underlay

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// Each case makes its changes from within the calls, so that Watch stays on the
// test's thread, and is then called exactly once more.
func TestWatchCalls(t *testing.T) {
	for name, commands := range map[string][]string{
		"address":               {"ip addr add 192.168.32.99/24 dev eth0"},
		"address gone":          {"ip addr del 192.168.32.9/24 dev eth0"},
		"MTU of the uplink":     {"ip link set eth0 mtu 1400"},
		"uplink down":           {"ip link set eth0 down"},
		"route":                 {"ip route add 10.9.0.0/16 via 192.168.32.1"},
		"route gone":            {"ip route del 10.7.0.0/16"},
		"rule":                  {"ip rule add to 10.9.0.0/16 lookup 100"},
		"overlay down":          {"ip link set bpfnet0 down"},
		"peer's neighbour goes": {"ip neigh add 172.246.0.0 lladdr 02:00:00:00:00:01 dev bpfnet0 nud permanent", "ip neigh del 172.246.0.0 dev bpfnet0"},
		"peer's route goes":     {"ip route add 10.9.0.0/24 via 192.168.32.1 proto 98", "ip route del 10.9.0.0/24"},
		"a burst of changes": {"ip addr add 192.168.32.99/24 dev eth0", "ip route add 10.9.0.0/16 via 192.168.32.1",
			"ip link set eth0 mtu 1400", "ip route del 10.9.0.0/16"},
	} {
		t.Run(name, func(t *testing.T) {
			node(t)
			settle(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			calls := 0
			err := Watch(ctx, func() {
				if calls++; calls == 2 {
					cancel()
					return
				}
				for _, c := range commands {
					run(t, c)
				}
			})
			if err != nil || calls != 2 {
				t.Errorf("%d calls, %v, want the first and one more", calls, err)
			}
		})
	}
}

// What containers and the overlay do is read, judged, and found to be nothing.
func TestWatchIgnores(t *testing.T) {
	for name, do := range map[string]func(*testing.T, topology.Self){
		"a container on a bridge": func(t *testing.T, _ topology.Self) {
			for _, c := range []string{"ip link add veth1 type veth peer name c1", "ip link set veth1 master br245", "ip link set veth1 up",
				"ip link set c1 up", "ip link set c1 mtu 1450", "ip link set veth1 nomaster", "ip link del veth1"} {
				run(t, c)
			}
		},
		"a routed container": func(t *testing.T, _ topology.Self) {
			for _, c := range []string{"ip link add veth1 type veth peer name c1", "ip link set veth1 up",
				"ip route add 172.245.0.7 dev veth1", "ip route del 172.245.0.7 dev veth1"} {
				run(t, c)
			}
		},
		"a peer": func(t *testing.T, s topology.Self) {
			p := topology.Peer{Key: "172.246.0.0-24", Subnet: netip.MustParsePrefix("172.246.0.0/24"),
				Node: netip.MustParseAddr("192.168.32.246"), Encap: topology.EncapVXLAN}
			p.VTEP = topology.VTEP{MAC: topology.MAC{0xc6, 0, 0, 0, 0, 2}, Addr: p.Subnet.Addr()}
			dev, err := dataplane.EnsureOverlay(s, dataplane.Programs)
			if err != nil {
				t.Fatal(err)
			}
			var v dataplane.View
			for _, peers := range [][]topology.Peer{{p}, nil} { // and that a route of ours is gone matters, if others removed it
				if problems, err := v.Apply(topology.State{Self: s, Peers: peers}, dev); err != nil || len(problems) > 0 {
					t.Fatal(err, problems)
				}
			}
			run(t, "ip route add 10.9.0.0/16 via 192.168.32.1 proto 98") // of which the watch is told
		},
		"the overlay's MTU and address": func(t *testing.T, s topology.Self) {
			s.MTU, s.Subnet = 1400, netip.MustParsePrefix("172.247.0.0/24")
			if _, err := dataplane.EnsureOverlay(s, dataplane.Programs); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := overlayNode(t)
			w, err := listen()
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			do(t, s)
			var got suspects
			if err = w.read(time.Now().Add(10*time.Second), &got); err != nil {
				t.Fatalf("nothing was announced, so the test sees nothing: %v", err)
			}
			for err == nil { // all that concerns do is in the socket by now
				err = w.read(time.Now().Add(time.Millisecond), &got)
			}
			if w.judge.matters(got) {
				t.Errorf("counted as a change of the underlay: %+v", got)
			}
		})
	}
}

func overlayNode(t *testing.T) topology.Self {
	t.Helper()
	nstest.Enter(t)
	s := topology.Self{
		Subnet: netip.MustParsePrefix("172.245.0.0/24"), Node: netip.MustParseAddr("192.168.32.245"), Encap: topology.EncapVXLAN,
		Uplink: nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24"), VNI: 1, Port: 8472, MTU: 1450,
	}
	for _, c := range []string{"ip link add br245 address 02:00:00:00:00:f5 type bridge", "ip addr add 172.245.0.1/24 dev br245",
		"ip link add veth0 type veth peer name c0", "ip link set veth0 master br245", "ip link set veth0 up", "ip link set c0 up",
		"ip link set br245 up"} {
		run(t, c)
	}
	if _, err := dataplane.EnsureOverlay(s, dataplane.Programs); err != nil {
		t.Fatal(err)
	}
	settle(t)
	return s
}

// settle waits until no veth or bridge has an announcement of its carrier outstanding: the
// kernel delays those by up to a second (net/core/link_watch.c).
func settle(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		waiting := ""
		for _, l := range links {
			if (l.Type() == "veth" || l.Type() == "bridge") && l.Attrs().OperState != netlink.OperUp {
				waiting = l.Attrs().Name
			}
		}
		if waiting == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s never became operational", waiting)
		}
	}
}

// More announcements than the socket holds: the kernel drops some, and says so
// with ENOBUFS; that is a change, and the next one after it is not missed.
func TestWatchSurvivesOverflow(t *testing.T) {
	node(t)
	settle(t)
	batch := filepath.Join(t.TempDir(), "batch")
	var routes []byte
	for i := range watchBuffer(t) / 256 { // none of which counts by itself, and each takes more of a buffer
		routes = fmt.Appendf(routes, "route add 10.%d.%d.%d/32 via 192.168.32.1 proto 98\n", 9+i>>16, i>>8&0xff, i&0xff)
	}
	if err := os.WriteFile(batch, routes, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	calls := 0
	var lost time.Time
	err := Watch(ctx, func() {
		switch calls++; calls {
		case 1:
			run(t, "ip -batch "+batch)
			lost = time.Now()
		case 2:
			if after := time.Since(lost); after < coalesce {
				t.Errorf("called again after %v, before a burst is over", after)
			}
			run(t, "ip addr add 192.168.32.99/24 dev eth0")
		case 3:
			cancel()
		}
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v, want the first, one after an overflow, and one more", calls, err)
	}
}

// watchBuffer is how many bytes a socket of the watch holds.
func watchBuffer(t *testing.T) int {
	t.Helper()
	w, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	size, err := unix.GetsockoptInt(w.socket.GetFd(), unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestWatchEndsWithItsContext(t *testing.T) {
	node(t)
	files := openFiles(t)
	for name, ends := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"before it starts": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		},
		"while it waits": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 20*time.Millisecond)
		},
	} {
		ctx, cancel := ends(t.Context())
		if err := Watch(ctx, func() {}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if got := openFiles(t); got > files { // fewer where the collector has found one of an earlier test
		t.Errorf("%d files open, %d before", got, files)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestWatchReportsALostSocket(t *testing.T) {
	node(t)
	w, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer w.judge.Close()
	w.socket.Close()
	if _, err := w.burst(); err == nil {
		t.Error("no error from a closed socket")
	}
}
