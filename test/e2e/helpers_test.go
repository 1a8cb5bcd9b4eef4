// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// timeout bounds every wait for something that takes far less, on a machine that does much else too.
const timeout = lab.Patience * 20 * time.Second

// up brings a lab up for the test alone, without daemons, beside those of other
// tests: most wait most of the time.
func up(t *testing.T, change func(*lab.Options)) *lab.Lab {
	t.Helper()
	t.Parallel()
	return upAlone(t, change)
}

// upAlone is up for a test that keeps all cores busy. What is left of the same test of a
// process that crashed goes first.
func upAlone(t *testing.T, change func(*lab.Options)) *lab.Lab {
	t.Helper()
	o := lab.Defaults()
	tree, err := os.Getwd() // two checkouts may be tested at once
	noError(t, err)
	h := fnv.New64a()
	fmt.Fprint(h, tree, t.Name())
	o.Name = fmt.Sprintf("e2e%016x", h.Sum64())
	o.Binary = bpfnetBinary
	if change != nil {
		change(&o)
	}
	dropped := machineDrops(t)
	l, err := lab.Up(t.Context(), o)
	noError(t, err)
	for _, h := range l.Hosts {
		rfcPorts(t, h)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("meanwhile the queues of the CPUs dropped %d packets of anybody's", machineDrops(t)-dropped)
			logDaemons(t, l)
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// serve brings a lab up, its daemons started and all its containers known.
func serve(t *testing.T, change func(*lab.Options)) *lab.Lab {
	t.Helper()
	l := up(t, change)
	serveAll(t, l)
	return l
}

// serveAll starts all daemons, and waits until all containers and peers are known.
func serveAll(t *testing.T, l *lab.Lab) {
	t.Helper()
	noError(t, l.StartDaemons(t.Context()))
	for _, h := range l.Hosts {
		learn(t, h)
		waitPeers(t, h, (len(l.Hosts)-1)*len(l.Options.Inner.Each()))
	}
}

// learn has each container of a host speak in each family that it has, and waits
// until the daemon knows all their addresses.
func learn(t *testing.T, h *lab.Host) {
	t.Helper()
	known := 0
	for _, c := range h.Containers {
		for _, f := range lab.Dual.Each() {
			if !c.In(f).IsValid() {
				continue
			}
			to := h.Node(f)
			if !to.IsValid() {
				to = h.GatewayOf(f)
			}
			ping(t, c.NS, to, lab.PingOptions{Count: 1})
			known++
		}
	}
	waitEndpoints(t, h, known)
}

// waitEndpoints waits until a host's daemon knows that many of its containers'
// addresses. Where the kernel's devices carry them, the kernel alone has to.
func waitEndpoints(t *testing.T, h *lab.Host, endpoints int) {
	t.Helper()
	until(t, fmt.Sprintf("%d containers of %s are known", endpoints, h.Name), func() (bool, error) {
		s, err := h.DaemonStatus(t.Context())
		return err == nil && (s.Endpoints == endpoints || s.Dataplane == node.Netlink), err
	})
}

// waitPeers waits until a host's daemon serves that many peers.
func waitPeers(t *testing.T, h *lab.Host, peers int) {
	t.Helper()
	until(t, fmt.Sprintf("%s serves %d peers", h.Name, peers), func() (bool, error) {
		s, err := h.DaemonStatus(t.Context())
		return err == nil && len(s.Peers) == peers, err
	})
}

func logDaemons(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range l.Hosts {
		if log, err := os.ReadFile(h.LogFile()); err == nil {
			t.Logf("daemon of %s:\n%s", h.Name, log)
		}
		if counted, err := h.NS.Run(context.Background(), bpfnetBinary, "--run-dir", h.Dir, "maps", "dump", "counters"); err == nil {
			t.Logf("programs of %s:\n%s", h.Name, counted)
		}
	}
}

// ping fails the test unless all requests are answered, once, in order and intact.
// It returns the replies' TTL.
func ping(t *testing.T, from lab.Namespace, to netip.Addr, o lab.PingOptions) (ttl int) {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = timeout // of a test that fails: it ends with the last reply
	}
	r, err := from.Ping(t.Context(), to, o)
	noError(t, err)
	ttls := r.TTLs()
	r.Replies = nil
	if d := cmp.Diff(lab.PingResult{Sent: o.Count, Received: o.Count}, r); d != "" || len(ttls) != 1 {
		t.Fatalf("ping %s from %s: TTLs %v, %s", to, from, ttls, d)
	}
	return ttls[0]
}

// transfer sends bytes by TCP, within the time of a wait.
func transfer(t *testing.T, from, to lab.Namespace, addr netip.Addr, size int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, lab.TransferTCP(ctx, from, to, addr, size))
}

// etcd is a client of the lab's etcd, from inside its first host.
func etcd(t *testing.T, l *lab.Lab) *clientv3.Client {
	t.Helper()
	ns := l.Hosts[0].NS
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{l.Endpoints()},
		DialTimeout: timeout,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return ns.Dial(ctx, "tcp", address)
		})},
	})
	noError(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// bpfnet runs the binary for a host, inside it, and returns what it printed.
func bpfnet(t *testing.T, h *lab.Host, args ...string) string {
	t.Helper()
	return run(t, h.NS, append([]string{bpfnetBinary, "--run-dir", h.Dir}, args...)...)
}

func run(t *testing.T, n lab.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run(t.Context(), args...)
	noError(t, err)
	return out
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, done func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, lab.Until(ctx, what, done))
}

func capture(t *testing.T, n lab.Namespace, iface string) *lab.Capture {
	t.Helper()
	c, err := n.Capture(iface)
	noError(t, err)
	t.Cleanup(func() { _, _ = c.Stop() }) // for tests that end before they stop it
	return c
}

func stop(t *testing.T, c *lab.Capture) []lab.Packet {
	t.Helper()
	packets, err := c.Stop()
	noError(t, err)
	return packets
}

func counters(t *testing.T, h *lab.Host) lab.Counters {
	t.Helper()
	c, err := h.Counters()
	noError(t, err)
	return c
}

// equal reports how got differs from want.
func equal(t *testing.T, what string, want, got any, o ...cmp.Option) {
	t.Helper()
	if d := cmp.Diff(want, got, o...); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}
