// SPDX-License-Identifier: Apache-2.0

//go:build root

package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// up brings a lab up for the test alone.
func up(t *testing.T, change func(*lab.Options)) *lab.Lab {
	t.Helper()
	o := lab.Defaults()
	o.Name = strings.ToLower(strings.NewReplacer("Test", "", "/", "", "_", "").Replace(t.Name()))
	o.Backend = topology.EncapNone
	change(&o)
	l, err := lab.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// route does by hand what a host-gw daemon does, by way of what the host's own
// routes say: the node itself, or its router.
func route(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range l.Hosts {
		for _, peer := range l.Hosts {
			for _, f := range l.Options.Inner.Each() {
				if peer == h {
					continue
				}
				via, subnet := peer.Node(f).String(), peer.SubnetOf(f).String()
				if l.Options.Underlay == lab.Routed {
					run(t, l.Wire(), "ip", "route", "replace", subnet, "via", via)
					via = router(h.Node(f))
				}
				run(t, h.NS, "ip", "route", "add", subnet, "via", via, "dev", lab.Uplink)
			}
		}
		run(t, h.NS, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
		if l.Options.Inner != lab.V4 {
			run(t, h.NS, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
		}
	}
}

// router is the first address of a host's segment.
func router(host netip.Addr) string {
	bits := 24
	if host.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(host, bits).Masked().Addr().Next().String()
}

func run(t *testing.T, n lab.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func capture(t *testing.T, n lab.Namespace, iface string) *lab.Capture {
	t.Helper()
	c, err := n.Capture(iface)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func stop(t *testing.T, c *lab.Capture) []lab.Packet {
	t.Helper()
	packets, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return packets
}

func TestAddAndRemove(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	third, err := l.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	if third.Name != "h3" || third.Addr != netip.MustParseAddr("192.168.32.247") || third.Subnet != netip.MustParsePrefix("172.247.0.0/24") {
		t.Errorf("third host is %s, %s, %s", third.Name, third.Addr, third.Subnet)
	}
	pingHost := func(from, to *lab.Host, want int) {
		t.Helper()
		r, e := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 1, Timeout: 50 * time.Millisecond})
		if e != nil || r.Received != want {
			t.Errorf("ping %s from %s: %d received, error %v, want %d", to.Name, from.Name, r.Received, e, want)
		}
	}
	pingHost(l.Hosts[0], third, 1)
	if err = l.RemoveHost(third); err != nil {
		t.Fatal(err)
	}
	pingHost(l.Hosts[0], third, 0)
	if third, err = l.AddHost(); err != nil { // at once, under the same name
		t.Fatal(err)
	}
	pingHost(third, l.Hosts[0], 1)

	h := l.Hosts[0]
	c, err := h.AddContainer()
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "c3" || c.Addr != netip.MustParseAddr("172.245.0.4") {
		t.Errorf("third container is %s, %s", c.Name, c.Addr)
	}
	if r, err := c.NS.Ping(t.Context(), h.Containers[0].Addr, lab.PingOptions{Count: 1}); err != nil || r.Received != 1 {
		t.Errorf("ping from the third container: %+v, %v", r, err)
	}
	if err := h.RemoveContainer(c); err != nil {
		t.Fatal(err)
	}
	if links := run(t, h.NS, "ip", "-o", "link"); strings.Contains(links, "vethc3") {
		t.Errorf("the removed container's link is still there: %s", links)
	}
}

// TestDownAfterCrash takes labs down of which only parts are there, as after a
// crash at any point.
func TestDownAfterCrash(t *testing.T) {
	tests := map[string]func(t *testing.T, l *lab.Lab){
		"whole":        func(*testing.T, *lab.Lab) {},
		"no state":     func(t *testing.T, _ *lab.Lab) { remove(t, "/run/bpfnet-lab/crash/state.json") },
		"bad state":    func(t *testing.T, _ *lab.Lab) { write(t, "/run/bpfnet-lab/crash/state.json", "{") },
		"no directory": func(t *testing.T, _ *lab.Lab) { remove(t, "/run/bpfnet-lab/crash") },
		"an empty directory": func(t *testing.T, _ *lab.Lab) {
			remove(t, "/run/bpfnet-lab/crash")
			if err := os.Mkdir("/run/bpfnet-lab/crash", 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"half a record of a daemon": func(t *testing.T, l *lab.Lab) { write(t, l.Hosts[0].Dir+"/daemon.json", "{") },
		"temporary files": func(t *testing.T, l *lab.Lab) {
			dir, err := l.TempDir()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("left behind: %s, %v", dir, err)
				}
			})
		},
		"half a namespace": func(t *testing.T, _ *lab.Lab) {
			write(t, "/run/netns/bpfnet-crash-h9", "")
		},
		// The first `ip netns add` of a machine makes a mount of /run/netns.
		"a namespace that ip made": func(t *testing.T, _ *lab.Lab) {
			if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", "bpfnet-crash-h8").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Name = "crash" })
			damage(t, l)
			if err := lab.Down("crash"); err != nil {
				t.Errorf("down: %v", err)
			}
			for _, pattern := range []string{"/run/netns/bpfnet-crash-*", "/run/bpfnet-lab/crash"} {
				if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			}
		})
	}
	if err := lab.Down("neverwas"); err != nil {
		t.Errorf("down of no lab: %v", err)
	}
}

// TestUpClearsDebris: a lab whose process has ended does not keep the next of its name from being made, unless it is kept.
func TestUpClearsDebris(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	if err := errors.Join(l.Keep(), l.Keep()); err != nil { // it may be kept already
		t.Fatal(err)
	}
	if _, err := lab.Up(t.Context(), l.Options); !errors.Is(err, lab.ErrUp) {
		t.Errorf("lab beside one that is kept: %v, want %v", err, lab.ErrUp)
	}
	for name, damage := range map[string]func(){
		"killed before it was complete": func() {},
		"killed in Down":                func() { remove(t, "/run/bpfnet-lab/upclearsdebris/h1") },
	} {
		damage()
		remove(t, "/run/bpfnet-lab/upclearsdebris/state.json")
		again, err := lab.Up(t.Context(), l.Options)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := again.Keep(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDownEndsProcesses: all that were started for the lab, by whomever, and their children; and nobody else, also not who is in its namespaces.
func TestDownEndsProcesses(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Hosts = 1 })
	n := l.Hosts[0].NS
	ours, others := exec.Command("sh", "-c", "sleep 60 & echo; wait"), exec.Command("cat")
	children, err := ours.StdoutPipe() // open as long as one of them lives
	if err != nil {
		t.Fatal(err)
	}
	in, err := others.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Start(n, ours), n.Do(others.Start)); err != nil {
		t.Fatal(err)
	}
	if _, err := children.Read(make([]byte, 1)); err != nil { // they are two now
		t.Fatal(err)
	}
	if err := l.Down(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(children); err != nil || len(rest) > 0 {
		t.Errorf("read %q, error %v, want the end", rest, err)
	}
	if err := ours.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a process of the lab ended with %v, want it killed", err)
	}
	if err := errors.Join(in.Close(), others.Wait()); err != nil {
		t.Errorf("a process that is none of the lab's: %v", err)
	}
}

// TestDownOfOthers: who has the lab is said, as far as it can be known.
func TestDownOfOthers(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Hosts = 1 })
	bpfnet, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	down := []string{bpfnet, "lab", "down", "--name", l.Options.Name}
	for want, command := range map[string][]string{
		fmt.Sprintf("in use by process %d: end that first\n", os.Getpid()): down,
		"in use by a process of another PID namespace: end that first\n":   append([]string{"unshare", "--pid", "--fork"}, down...),
	} {
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
		if err == nil || !strings.HasSuffix(string(out), want) {
			t.Errorf("%v: %v: %s, want %s", command, err, out, want)
		}
	}
}

func TestUpRefuses(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	if _, err := lab.Up(t.Context(), l.Options); !errors.Is(err, lab.ErrUp) {
		t.Errorf("second lab of the name: %v, want %v", err, lab.ErrUp)
	}
	if again, err := lab.Open(l.Options.Name); err != nil || len(again.Hosts) != 2 {
		t.Errorf("the first lab suffered: %v", err)
	}
	if _, err := lab.Open("neverwas"); !errors.Is(err, lab.ErrNotUp) {
		t.Errorf("open of no lab: %v, want %v", err, lab.ErrNotUp)
	}
}

func TestFind(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Containers = 1 })
	for path, addr := range map[string]string{"h1": "192.168.32.245/24", "h2/c1": "172.246.0.2/24"} {
		n, err := l.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		err = n.Do(func() error {
			link, e := netlink.LinkByName("eth0")
			if e != nil {
				return e
			}
			addrs, e := netlink.AddrList(link, netlink.FAMILY_ALL)
			if e == nil && (len(addrs) != 1 || addrs[0].IPNet.String() != addr) {
				e = fmt.Errorf("addresses %v, want %s alone", addrs, addr)
			}
			return e
		})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"", "h3", "h1/c2", "c1", "h1/"} {
		if n, err := l.Find(path); err == nil {
			t.Errorf("found %s at %q", n, path)
		}
	}
}

func TestDialIsInside(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Containers = 0 })
	listener, err := l.Hosts[0].NS.Listen(t.Context(), "tcp4", l.Hosts[0].Addr.String()+":2379")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := l.Hosts[1].NS.Dial(t.Context(), "tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != l.Hosts[1].Addr.String() {
		t.Errorf("dialled from %s, want %s", got, l.Hosts[1].Addr)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
