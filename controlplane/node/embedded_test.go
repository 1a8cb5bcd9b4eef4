// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

// serving is a node that serves etcd at these client URLs.
func serving(t *testing.T, listen ...string) *node {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	n := &node{log: log, reporter: newReporter(log)}
	n.Embedded = Embedded{Dir: t.TempDir(), Listen: listen}
	startEtcd(t, n)
	t.Cleanup(func() {
		if err := n.stopEtcd(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func startEtcd(t *testing.T, n *node) {
	t.Helper()
	if err := n.startEtcd(t.Context(), netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
}

// answers checks that etcd is served where its endpoints say.
func answers(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := store.Open(ctx, store.Options{Endpoints: n.etcd.endpoints(), Prefix: "/test", Logger: n.log})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Config(ctx); !errors.Is(err, store.ErrNoConfig) {
		t.Errorf("error %v of etcd served anew, want %v", err, store.ErrNoConfig)
	}
}

func TestEtcdThatDiesIsStartedAnew(t *testing.T) {
	n := serving(t, "http://127.0.0.1:0")
	died := make(chan error, 1)
	server := n.etcd.server
	go func() { died <- n.watchEtcd(t.Context()) }()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-died:
		if err == nil {
			t.Error("the session goes on")
		}
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	startEtcd(t, n)
	answers(t, n)
}

func TestEtcdOutlivesSessions(t *testing.T) {
	n := serving(t, "http://127.0.0.1:0")
	before := n.etcd
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := n.watchEtcd(ctx); err != nil {
		t.Errorf("error %v at a session's end", err)
	}
	startEtcd(t, n)
	if n.etcd != before {
		t.Error("started anew though nothing is wrong with it")
	}
}

func TestEtcdMovesWithTheNode(t *testing.T) {
	n := serving(t, "http://127.0.0.1:0")
	n.Embedded.Listen = []string{"http://127.0.0.2:0"}
	startEtcd(t, n)
	if got := netip.MustParseAddrPort(n.etcd.endpoints()[0][len("http://"):]).Addr(); got != netip.MustParseAddr("127.0.0.2") {
		t.Errorf("served at %s, want 127.0.0.2", got)
	}
	answers(t, n)
}
