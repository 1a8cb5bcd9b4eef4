// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// member is a member of a cluster in front of a real etcd: it passes all on, but
// says other revisions and clusters than that is at.
type member struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	kv      pb.KVClient
	watcher pb.WatchClient
	lists   atomic.Int64

	watchHeader func(*pb.ResponseHeader)               // of new watches
	readHeader  func(h *pb.ResponseHeader, list int64) // list: which one, from 1 on; 0 of a single key
}

func newMember(t *testing.T, e *etcd) *member {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(e.options.ClientURLs[0], "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(conn) })
	return &member{kv: pb.NewKVClient(conn), watcher: pb.NewWatchClient(conn)}
}

// serve returns the member's endpoint.
func (m *member) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterKVServer(s, m)
	pb.RegisterWatchServer(s, m)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func (m *member) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp, err := m.kv.Range(ctx, r)
	if err == nil && m.readHeader != nil {
		var list int64
		if len(r.RangeEnd) != 0 {
			list = m.lists.Add(1)
		}
		m.readHeader(resp.Header, list)
	}
	return resp, err
}

func (m *member) Watch(client pb.Watch_WatchServer) error {
	server, err := m.watcher.Watch(client.Context())
	if err != nil {
		return err
	}
	go func() {
		for {
			req, err := client.Recv()
			if err != nil || server.Send(req) != nil {
				return
			}
		}
	}()
	for {
		resp, err := server.Recv()
		if err != nil {
			return err
		}
		if resp.Created {
			m.watchHeader(resp.Header)
		}
		if err := client.Send(resp); err != nil {
			return err
		}
	}
}

// setBack is to the revision of an etcd without any keys.
func setBack(h *pb.ResponseHeader) { h.Revision = 1 }

// TestWatchLagging watches at a member that is behind the one that was read. It
// lists again only if the others turn out to have been set back as well.
func TestWatchLagging(t *testing.T) {
	for name, test := range map[string]struct {
		read  func(*pb.ResponseHeader, int64)
		lists int64
	}{
		"one member lags": {func(*pb.ResponseHeader, int64) {}, 1},
		"all restored from a backup": {func(h *pb.ResponseHeader, list int64) {
			if list != 1 {
				setBack(h)
			}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEtcd(t)
			e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
			m := newMember(t, e)
			m.watchHeader, m.readHeader = setBack, test.read
			updates := watch(t, e.open(Options{Endpoints: []string{m.serve(t)}}))
			for range test.lists {
				expectUpdate(t, updates, "full put [10.0.1.0-24=192.168.32.1] deleted [] bad []")
			}
			for _, key := range []string{"10.0.2.0-24", "10.0.3.0-24"} {
				e.put("subnets/"+key, vxlanValue("192.168.32.2"))
				expectUpdate(t, updates, "put ["+key+"=192.168.32.2] deleted [] bad []")
			}
			if n := m.lists.Load(); n != test.lists {
				t.Errorf("listed %d times, want %d", n, test.lists)
			}
		})
	}
}

// TestWatchTwoClusters has lists and watches answered by different clusters: it
// is tried again ever more slowly, and meanwhile the lists are delivered.
func TestWatchTwoClusters(t *testing.T) {
	e := newEtcd(t)
	m := newMember(t, e)
	m.watchHeader = func(h *pb.ResponseHeader) { h.ClusterId++ }
	start := time.Now()
	updates := watch(t, e.open(Options{Endpoints: []string{m.serve(t)}}))
	for range 5 {
		expectUpdate(t, updates, "full put [] deleted [] bad []")
	}
	if took, least := time.Since(start), (1+2+4+8)*retryMin/2; took < least {
		t.Errorf("listed five times within %v, want pauses of at least %v", took, least)
	}
}
