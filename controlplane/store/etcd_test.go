// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to happen.
const patience = 60 * time.Second

// etcd is a real server that can be stopped and started.
type etcd struct {
	t       *testing.T
	options embedded.Options
	server  *embedded.Server
	cli     *clientv3.Client // for what others do
}

func newEtcd(t *testing.T) *etcd {
	t.Helper()
	e := &etcd{t: t, options: embedded.Options{
		Dir: t.TempDir(), ClientURLs: []string{"http://127.0.0.1:0"}, NoSync: true,
	}}
	e.start()
	t.Cleanup(e.stop)
	e.options.ClientURLs = e.server.Endpoints() // the same ones when started again
	var err error
	e.cli, err = clientv3.New(clientv3.Config{
		Endpoints:   e.server.Endpoints(),
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(reconnect)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.cli.Close() })
	return e
}

func (e *etcd) start() {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if e.server, err = embedded.Start(ctx, e.options); err != nil {
		e.t.Fatal(err)
	}
}

func (e *etcd) stop() {
	e.t.Helper()
	if e.server == nil {
		return
	}
	if err := e.server.Close(); err != nil {
		e.t.Error(err)
	}
	e.server = nil
}

// put writes a key under the default prefix, as etcdctl would.
func (e *etcd) put(key, value string) int64 {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	resp, err := e.cli.Put(ctx, DefaultPrefix+"/"+key, value)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (e *etcd) delete(key string) int64 {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	resp, err := e.cli.Delete(ctx, DefaultPrefix+"/"+key)
	if err != nil {
		e.t.Fatal(err)
	}
	if resp.Deleted != 1 {
		e.t.Fatalf("%s was not there to be deleted", key)
	}
	return resp.Header.Revision
}

// get returns the value of a key under the default prefix and the grant it
// lives by; "" where it is not there.
func (e *etcd) get(key string) (value string, grant clientv3.LeaseID) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	resp, err := e.cli.Get(ctx, DefaultPrefix+"/"+key)
	if err != nil {
		e.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return "", 0
	}
	return string(resp.Kvs[0].Value), clientv3.LeaseID(resp.Kvs[0].Lease)
}

func (e *etcd) open(o Options) *Store {
	e.t.Helper()
	if o.Endpoints == nil {
		o.Endpoints = e.options.ClientURLs
	}
	s, err := Open(e.t.Context(), o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			e.t.Error(err)
		}
	})
	return s
}

// logged collects a log.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) count(text string) int { return strings.Count(l.String(), text) }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited %v in vain until %s", patience, what)
		case <-time.After(time.Millisecond):
		}
	}
}

// running runs f until the returned function is called, which waits for f's
// end and checks that it was asked for.
func running(t *testing.T, f func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v, want only to be cancelled", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// receive waits for the next value of a channel.
func receive[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v in vain for %s", patience, what)
		panic("unreachable")
	}
}

// proxy stands between a client and etcd and can be cut.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: strings.TrimPrefix(endpoint, "http://"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		end(l)
		p.setCut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.listener.Addr().String() }

// setCut ends all connections and refuses new ones, or lets them through.
func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	if cut {
		for c := range p.conns {
			end(c)
		}
		clear(p.conns)
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil || !p.admit(client, server) {
			end(client)
			if err == nil {
				end(server)
			}
			continue
		}
		for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
			p.wg.Go(func() {
				io.Copy(pair[0], pair[1]) //nolint:errcheck // it ends with the connection
				end(pair[0])
				end(pair[1])
			})
		}
	}
}

func (p *proxy) admit(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
	return !p.cut
}

// end closes what may be closed already.
func end(c io.Closer) { _ = c.Close() }
