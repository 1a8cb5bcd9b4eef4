// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
	"github.com/bpfnet/bpfnet/test/lab"
)

// flow is a ping between two containers that has to go on whatever happens.
type flow struct {
	t    *testing.T
	name string
	ttl  int // that replies are to come with
	ping *lab.Pinger
	end  func() (lab.PingResult, error)

	dropped uint64 // by the machine, when it began
}

// startFlow pings until the test calls intact, and waits for the first reply.
func startFlow(t *testing.T, from, to *lab.Container, interval time.Duration) *flow {
	t.Helper()
	p, err := from.NS.StartPing(t.Context(), to.Addr, lab.PingOptions{Interval: interval, Timeout: lab.Patience * 2 * time.Second})
	noError(t, err)
	f := &flow{
		t: t, name: fmt.Sprintf("ping %s from %s", to.Addr, from.NS), ttl: 62, ping: p, end: sync.OnceValues(p.Stop),
		dropped: machineDrops(t),
	}
	t.Cleanup(func() { _, _ = f.end() }) // for tests that end early
	f.more(1)
	return f
}

// more waits for that many more replies.
func (f *flow) more(replies int) {
	f.t.Helper()
	want := f.ping.Snapshot().Received + replies
	tick := time.NewTicker(10 * time.Millisecond) // a snapshot copies all replies
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); f.ping.Snapshot().Received < want; <-tick.C {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: no %d more replies within %v: %d sent, %d received", f.name, replies, timeout,
				f.ping.Snapshot().Sent, f.ping.Snapshot().Received)
		}
	}
}

// intact ends the flow. Every request has to have been answered, once, in
// order, over the overlay.
func (f *flow) intact() {
	f.t.Helper()
	r, err := f.end()
	if err != nil {
		f.t.Error(err)
	}
	equal(f.t, f.name+": TTLs", []int{f.ttl}, r.TTLs())
	f.complete(r)
}

// unordered ends the flow. Every request has to have been answered, once, over the overlay.
func (f *flow) unordered() {
	f.t.Helper()
	r := f.lossless()
	equal(f.t, f.name+": TTLs", []int{f.ttl}, r.TTLs())
}

// lossless ends the flow. Every request has to have been answered, once; not in
// order, for one way may be faster than the other.
func (f *flow) lossless() lab.PingResult {
	f.t.Helper()
	r, err := f.end()
	if err != nil {
		f.t.Error(err)
	}
	r.Reordered = 0
	f.complete(r)
	return r
}

// complete fails the test unless every request was answered, once. It says what else there is that may have lost some.
func (f *flow) complete(r lab.PingResult) {
	f.t.Helper()
	r.Replies = nil
	f.t.Logf("%s: %d sent; meanwhile the queues of the CPUs, which all namespaces share, dropped %d packets of anybody's",
		f.name, r.Sent, machineDrops(f.t)-f.dropped)
	equal(f.t, f.name, lab.PingResult{Sent: r.Sent, Received: r.Sent}, r)
}

// machineDrops are the packets that found no room in a CPU's queue (net.core.netdev_max_backlog): the
// second number of each line, which is a CPU's (softnet_seq_show, net/core/net-procfs.c).
func machineDrops(t *testing.T) (all uint64) {
	t.Helper()
	data, err := os.ReadFile("/proc/net/softnet_stat")
	noError(t, err)
	for text := range bytes.Lines(data) {
		var processed, dropped uint64
		_, err := fmt.Sscanf(string(text), "%x %x", &processed, &dropped)
		noError(t, err)
		all += dropped
	}
	return all
}

// etcdURL is the underlay's router, where a test's own etcd listens.
const etcdURL = "http://192.168.32.1:2379"

// etcdServer is an etcd of the test's own, which it can stop and start.
type etcdServer struct {
	t      *testing.T
	ns     lab.Namespace
	dir    string
	server *embedded.Server
}

// withEtcd is a lab's option: its daemons use the etcd of startEtcd.
func withEtcd(o *lab.Options) { o.Etcd = etcdURL }

func startEtcd(t *testing.T, l *lab.Lab) *etcdServer {
	t.Helper()
	e := &etcdServer{t: t, ns: l.Wire(), dir: filepath.Join(filepath.Dir(l.Hosts[0].Dir), "etcd")} // in memory: a disk may take seconds
	e.start(etcdURL)
	t.Cleanup(e.stop)
	return e
}

func (e *etcdServer) start(url string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), timeout)
	defer cancel()
	noError(e.t, e.ns.Do(func() (err error) {
		e.server, err = embedded.Start(ctx, embedded.Options{Dir: e.dir, ClientURLs: []string{url}})
		return err
	}))
}

func (e *etcdServer) stop() {
	e.t.Helper()
	if e.server == nil {
		return
	}
	if err := e.server.Close(); err != nil {
		e.t.Error(err)
	}
	e.server = nil
}

// dialEtcd is a client in a namespace that finds an etcd that is back at once.
func dialEtcd(t *testing.T, ns lab.Namespace, url string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{url},
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond},
				MinConnectTimeout: timeout, // else an attempt has a millisecond too
			}),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return ns.Dial(ctx, "tcp", address)
			}),
		},
	})
	noError(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err := c.Put(ctx, store.DefaultPrefix+"/"+key, value)
	noError(t, err)
}

func remove(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	resp, err := c.Delete(ctx, store.DefaultPrefix+"/"+key)
	noError(t, err)
	if resp.Deleted != 1 {
		t.Fatalf("%s was not in etcd to be deleted", key)
	}
}

// get is the value of a key; "" where it is not there.
func get(t *testing.T, c *clientv3.Client, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	resp, err := c.Get(ctx, store.DefaultPrefix+"/"+key)
	noError(t, err)
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// leaseKey is the key of a host's lease.
func leaseKey(h *lab.Host) string {
	return fmt.Sprintf("subnets/%s-%d", h.Subnet.Addr(), h.Subnet.Bits())
}

// jsonLog is the daemon's option for logs that logged can read.
const jsonLog = "--log-format=json"

// line is a line of a daemon's log.
type line struct {
	Level, Msg, Source, Key string
}

// logMark is the end of a host's log.
func logMark(t *testing.T, h *lab.Host) int64 {
	t.Helper()
	info, err := os.Stat(h.LogFile())
	noError(t, err)
	return info.Size()
}

// logged is what a host's daemon logged of that level and above, from a mark on.
func logged(t *testing.T, h *lab.Host, mark int64) (lines []line) {
	t.Helper()
	data, err := os.ReadFile(h.LogFile())
	noError(t, err)
	for text := range bytes.Lines(data[mark:]) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			l = line{Msg: string(text)}
		}
		lines = append(lines, l)
	}
	return lines
}

// warnings are the lines that somebody has to look at.
func warnings(t *testing.T, h *lab.Host, mark int64) (texts []string) {
	t.Helper()
	for _, l := range logged(t, h, mark) {
		if l.Level != "INFO" && l.Level != "DEBUG" {
			texts = append(texts, l.Msg)
		}
	}
	return texts
}

// warningsBut are the warnings without those that contain a text.
func warningsBut(t *testing.T, h *lab.Host, mark int64, but string) []string {
	t.Helper()
	return slices.DeleteFunc(warnings(t, h, mark), func(text string) bool { return strings.Contains(text, but) })
}

// waitLog waits until a host's daemon has logged a text.
func waitLog(t *testing.T, h *lab.Host, mark int64, text string) {
	t.Helper()
	until(t, h.Name+" logs "+text, func() (bool, error) {
		return slices.ContainsFunc(logged(t, h, mark), func(l line) bool { return l.Msg == text }), nil
	})
}

// waitProblems waits until a host's daemon says that exactly these are wrong.
func waitProblems(t *testing.T, h *lab.Host, want ...node.Problem) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var d string
	err := lab.Until(ctx, "", func() (bool, error) {
		s, err := h.DaemonStatus(ctx)
		if d = cmp.Diff(want, s.Problems, cmpopts.EquateEmpty()); err != nil {
			d = err.Error() // it may not listen yet
		}
		return d == "", nil
	})
	if err != nil {
		t.Fatalf("problems of %s (-want +got):\n%s%v", h.Name, d, err)
	}
}

// background is a call that goes on while the test does something else.
type background struct{ err chan error }

func inBackground(f func() error) background {
	b := background{make(chan error, 1)}
	go func() { b.err <- f() }()
	return b
}

// ended reports whether wait would return at once.
func (b background) ended() bool { return len(b.err) > 0 }

func (b background) wait(t *testing.T) {
	t.Helper()
	noError(t, <-b.err)
}

// emptyLog has a host's log begin anew: it is appended to.
func emptyLog(h *lab.Host) error { return os.Truncate(h.LogFile(), 0) }
