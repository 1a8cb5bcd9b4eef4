// SPDX-License-Identifier: Apache-2.0

package embedded_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
)

func start(t *testing.T, o embedded.Options) *embedded.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := embedded.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func client(t *testing.T, endpoints []string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestDataSurvivesRestart starts a server on a directory twice, the second
// time at another address.
func TestDataSurvivesRestart(t *testing.T) {
	dir := t.TempDir() + "/etcd"
	var cluster uint64
	for _, url := range []string{"http://127.0.0.1:0", "http://[::1]:0"} {
		if cluster != 0 {
			if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
				url = "http://127.0.0.1:0" // a host without IPv6
			} else if err = l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s := start(t, embedded.Options{Dir: dir, ClientURLs: []string{url}})
		c := client(t, s.Endpoints())
		if cluster == 0 {
			resp, err := c.Put(t.Context(), "k", "v")
			if err != nil {
				t.Fatal(err)
			}
			cluster = resp.Header.ClusterId
		}
		resp, err := c.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" || resp.Header.ClusterId != cluster {
			t.Errorf("at %s got %v, want the value put and cluster %x", url, resp, cluster)
		}
		if err = s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCloseUnderWatch closes a server that has a watcher, who never leaves.
func TestCloseUnderWatch(t *testing.T) {
	const patience = 5 * time.Second // etcd's own
	for range 3 {                    // a machine that stands still may make it seem so, but not each time
		s := start(t, embedded.Options{Dir: t.TempDir(), ClientURLs: []string{"http://127.0.0.1:0"}, NoSync: true})
		w := client(t, s.Endpoints()).Watch(t.Context(), "k", clientv3.WithCreatedNotify())
		<-w
		began := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if time.Since(began) < patience {
			return
		}
	}
	t.Errorf("closing takes %v", patience)
}

func TestNewDirIsNewCluster(t *testing.T) {
	var ids [2]uint64
	for i := range ids {
		s := start(t, embedded.Options{Dir: t.TempDir(), ClientURLs: []string{"http://127.0.0.1:0"}})
		resp, err := client(t, s.Endpoints()).Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = resp.Header.ClusterId
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if ids[0] == ids[1] {
		t.Errorf("two clusters have the id %x: watchers would take one for the other", ids[0])
	}
}

func TestEndpointsOfAllAddresses(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir(), ClientURLs: []string{"http://0.0.0.0:0"}})
	if got := s.Endpoints(); len(got) != 1 || !strings.HasPrefix(got[0], "http://127.0.0.1:") {
		t.Errorf("endpoints are %q, want one on 127.0.0.1", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := "http://" + l.Addr().String()
	for _, tt := range []struct {
		name string
		urls []string
		want string
	}{
		{"address in use", []string{taken}, "address already in use"},
		{"no port", []string{"http://127.0.0.1"}, `client URL "http://127.0.0.1" is none to listen on`},
		{"no URL", []string{"127.0.0.1:2379"}, "is none to listen on"},
		{"mixed", []string{"http://127.0.0.1:0", "https://127.0.0.1:0"}, "mix http and https"},
		{"https without certificate", []string{"https://127.0.0.1:0"}, "TLS key/cert"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), ClientURLs: tt.urls})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got error %q, want one line with %q", err, tt.want)
			}
		})
	}
}
