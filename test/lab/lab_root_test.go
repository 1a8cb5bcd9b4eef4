// SPDX-License-Identifier: Apache-2.0

//go:build root

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
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
			if peer != h {
				via := peer.Addr.String()
				if l.Options.Underlay == lab.Routed {
					via = router(h.Addr)
					run(t, l.Wire(), "ip", "route", "replace", peer.Subnet.String(), "via", peer.Addr.String())
				}
				run(t, h.NS, "ip", "route", "add", peer.Subnet.String(), "via", via, "dev", lab.Uplink)
			}
		}
		run(t, h.NS, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	}
}

func router(host netip.Addr) string {
	a := host.As4()
	a[3] = 1
	return netip.AddrFrom4(a).String()
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

func TestPing(t *testing.T) {
	tests := map[string]struct {
		change func(*lab.Options)
		ttl    int // 64, less one for each router
	}{
		"flat":    {func(*lab.Options) {}, 62},
		"routed":  {func(o *lab.Options) { o.Underlay = lab.Routed }, 61},
		"perlink": {func(o *lab.Options) { o.Wiring = lab.PerLink }, 62},
		"ipv6":    {func(o *lab.Options) { o.IPv6 = true }, 62},
		"jumbo":   {func(o *lab.Options) { o.MTU = 9000 }, 62},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := up(t, test.change)
			route(t, l)
			for _, from := range l.Hosts[0].Containers {
				for _, to := range l.Hosts[1].Containers {
					r, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 3, Interval: time.Millisecond})
					if err != nil {
						t.Fatal(err)
					}
					want := lab.PingResult{Sent: 3, Received: 3}
					if d := cmp.Diff([]int{test.ttl}, r.TTLs()); d != "" {
						t.Errorf("ping %s from %s: TTL: %s", to.Addr, from.Addr, d)
					}
					r.Replies = nil
					if d := cmp.Diff(want, r); d != "" {
						t.Errorf("ping %s from %s: %s", to.Addr, from.Addr, d)
					}
				}
			}
		})
	}
}

// TestPingAccount takes a link down for part of a ping at 1000/s: what is lost
// has to show, with its numbers, and nothing else.
func TestPingAccount(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	p, err := from.NS.StartPing(t.Context(), to.Addr, lab.PingOptions{Interval: time.Millisecond, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, done func(lab.PingResult) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := lab.Until(ctx, what, func() (bool, error) { return done(p.Snapshot()), nil }); err != nil {
			t.Fatalf("%v: %+v", err, p.Snapshot())
		}
	}
	until("100 replies", func(r lab.PingResult) bool { return r.Received >= 100 })
	run(t, l.Wire(), "ip", "link", "set", "h2", "down")
	run(t, l.Wire(), "ip", "link", "set", "h2", "up")
	after := p.Snapshot()
	until("100 more replies", func(r lab.PingResult) bool { return r.Received >= after.Received+100 })
	r, err := p.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Lost) == 0 || r.Received+len(r.Lost) != r.Sent || r.Duplicates+r.Reordered+r.Damaged != 0 {
		t.Errorf("sent %d, received %d, lost %d, %d duplicates, %d reordered, %d damaged: want some lost, all accounted for",
			r.Sent, r.Received, len(r.Lost), r.Duplicates, r.Reordered, r.Damaged)
	}
}

// TestCaptureIsExact: a ping of n requests is n requests and n replies on each
// uplink, and nothing else but the ARP that started it.
func TestCaptureIsExact(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	captures := []*lab.Capture{capture(t, l.Hosts[0].NS, lab.Uplink), capture(t, l.Hosts[1].NS, lab.Uplink)}
	const count = 200
	if _, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: count, Interval: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for i, c := range captures {
		kinds := make(map[string]int)
		for _, p := range stop(t, c) {
			d := lab.Decode(p)
			if len(d.ARP) > 0 {
				continue
			}
			if err := lab.VerifyChecksums(p); err != nil {
				t.Errorf("uplink of h%d: %v", i+1, err)
			}
			if len(d.ICMP) == 0 {
				t.Errorf("uplink of h%d: unexpected %s %x", i+1, lab.Summary(p), p.Data)
				continue
			}
			kinds[fmt.Sprintf("%v %d bytes ttl %d outgoing %v", d.ICMP[0].TypeCode, p.Len, d.IPv4[0].TTL, p.Outgoing)]++
		}
		request, reply := i == 0, i == 1 // who sends which
		want := map[string]int{
			fmt.Sprintf("EchoRequest 98 bytes ttl 63 outgoing %v", request): count,
			fmt.Sprintf("EchoReply 98 bytes ttl 63 outgoing %v", reply):     count,
		}
		if d := cmp.Diff(want, kinds); d != "" {
			t.Errorf("uplink of h%d: %s", i+1, d)
		}
	}
}

func TestTransferTCPStaysWhole(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	c := capture(t, l.Hosts[0].NS, lab.Uplink)
	const size = 8 << 20
	if err := lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, size); err != nil {
		t.Fatal(err)
	}
	packets, payload, largest := 0, 0, 0
	for _, p := range stop(t, c) {
		d := lab.Decode(p)
		if !p.Outgoing || len(d.TCP) == 0 {
			continue
		}
		n := int(d.IPv4[0].Length) - 20 - 4*int(d.TCP[0].DataOffset)
		if n > 0 {
			packets++
			payload += n
			largest = max(largest, n)
		}
		if n > 1448 && p.GSOSize != 1448 {
			t.Errorf("superpacket of %d bytes has segments of %d, want 1448", n, p.GSOSize)
		}
		if p.Len != int(d.IPv4[0].Length)+14 {
			t.Errorf("length %d, IP says %d", p.Len, d.IPv4[0].Length)
		}
	}
	if payload < size || largest < 30000 {
		t.Errorf("%d bytes in %d packets, the largest %d: want all, in superpackets", payload, packets, largest)
	}
}

func TestTransferUDP(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	tests := map[string]struct {
		o       lab.UDPOptions
		largest int // captured packet, bytes
		gso     int
	}{
		"small":       {lab.UDPOptions{Count: 50, Size: 64}, 64 + 42, 0},
		"fragmented":  {lab.UDPOptions{Count: 5, Size: 4000}, 1514, 0},
		"superpacket": {lab.UDPOptions{Count: 40, Size: 1000, Segments: 20}, 20000 + 42, 1000},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := capture(t, l.Hosts[1].NS, lab.Uplink)
			n, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, test.o)
			if err != nil || n != test.o.Count {
				t.Errorf("received %d of %d datagrams, error %v", n, test.o.Count, err)
			}
			largest, gso := 0, 0
			for _, p := range stop(t, c) {
				largest, gso = max(largest, p.Len), max(gso, p.GSOSize)
			}
			if largest != test.largest || gso != test.gso {
				t.Errorf("largest packet %d bytes, segments of %d, want %d and %d", largest, gso, test.largest, test.gso)
			}
		})
	}
	t.Run("over the MTU", func(t *testing.T) {
		_, err := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, lab.UDPOptions{Count: 1, Size: 1473, DF: true, Timeout: time.Millisecond})
		if err == nil {
			t.Error("1473 bytes with DF went through an MTU of 1500")
		}
	})
}

// TestTransferFails: a transfer that cannot succeed ends, and says so.
func TestTransferFails(t *testing.T) {
	l := up(t, func(*lab.Options) {}) // no routes
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := lab.TransferTCP(ctx, from.NS, to.NS, to.Addr, 1<<20); err == nil {
		t.Error("TCP transfer without a route succeeded")
	}
	n, _ := lab.TransferUDP(t.Context(), from.NS, to.NS, to.Addr, lab.UDPOptions{Count: 3, Size: 8, Timeout: 50 * time.Millisecond})
	if n != 0 {
		t.Errorf("%d datagrams arrived without a route", n)
	}
}

func TestCaptureWaitFor(t *testing.T) {
	l := up(t, func(*lab.Options) {})
	route(t, l)
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	c := capture(t, l.Hosts[1].NS, lab.Uplink)
	if _, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 1}); err != nil {
		t.Fatal(err)
	}
	isReply := func(p lab.Packet) bool {
		d := lab.Decode(p)
		return len(d.ICMP) == 1 && d.ICMP[0].TypeCode.Type() == layers.ICMPv4TypeEchoReply
	}
	p, err := c.WaitFor(t.Context(), isReply)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("IP %s > %s: ICMP echo reply, id ", to.Addr, from.Addr)
	if got := lab.Summary(p); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, ", seq 1, length 64") {
		t.Errorf("summary %q, want %q…", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.WaitFor(ctx, func(lab.Packet) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for a packet that does not come: %v, want the deadline", err)
	}
	stop(t, c)
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
		r, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 1, Timeout: 50 * time.Millisecond})
		if err != nil || r.Received != want {
			t.Errorf("ping %s from %s: %d received, error %v, want %d", to.Name, from.Name, r.Received, err, want)
		}
	}
	pingHost(l.Hosts[0], third, 1)
	if err := l.RemoveHost(third); err != nil {
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
		"half a namespace": func(t *testing.T, _ *lab.Lab) {
			write(t, "/run/netns/bpfnet-crash-h9", "")
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
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			if err == nil && (len(addrs) != 1 || addrs[0].IPNet.String() != addr) {
				err = fmt.Errorf("addresses %v, want %s alone", addrs, addr)
			}
			return err
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
