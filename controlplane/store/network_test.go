// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	_, err := s.Config(t.Context())
	if !errors.Is(err, ErrNoConfig) || errors.Is(err, ErrBadConfig) ||
		!strings.Contains(err.Error(), "etcdctl put /coreos.com/network/config") {
		t.Errorf("no config: error %v", err)
	}
	e.put("config", `{"Network":"10.0.0.0/33"}`)
	_, err = s.Config(t.Context())
	if !errors.Is(err, ErrBadConfig) || errors.Is(err, ErrNoConfig) ||
		!strings.Contains(err.Error(), "/coreos.com/network/config") {
		t.Errorf("bad config: error %v", err)
	}
	e.put("config", fourSubnets)
	if c, err := s.Config(t.Context()); err != nil || c != mustParseConfig(t, fourSubnets) {
		t.Errorf("config is %+v, error %v", c, err)
	}
}

func TestCreateConfig(t *testing.T) {
	const other = `{"Network":"10.9.0.0/16"}`
	e := newEtcd(t)
	s := e.open(Options{})
	if _, err := s.CreateConfig(t.Context(), []byte(`{}`)); !errors.Is(err, ErrBadConfig) {
		t.Errorf("bad config: error %v", err)
	}
	for i, json := range []string{fourSubnets, other} {
		created, err := s.CreateConfig(t.Context(), []byte(json))
		if err != nil || created != (i == 0) {
			t.Errorf("config %d: created %v, error %v", i, created, err)
		}
	}
	if value, _ := e.get("config"); value != fourSubnets {
		t.Errorf("etcd holds %s, want the first", value)
	}
	// Another prefix is another network.
	for _, prefix := range []string{"/other", "/more/", "relative"} {
		if created, err := e.open(Options{Prefix: prefix}).CreateConfig(t.Context(), []byte(other)); err != nil || !created {
			t.Errorf("under %s: created %v, error %v", prefix, created, err)
		}
	}
	for _, key := range []string{"/other/config", "/more/config", "relative/config"} {
		if resp, err := e.cli.Get(t.Context(), key); err != nil || len(resp.Kvs) != 1 {
			t.Errorf("no %s: %v, error %v", key, resp, err)
		}
	}
}

func TestWatchConfig(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	values := make(chan []byte, 10)
	running(t, func(ctx context.Context) error {
		return s.WatchConfig(ctx, func(b []byte) { values <- b })
	})
	next := func(want string) {
		t.Helper()
		if got := receive(t, "config", values); string(got) != want || (got == nil) != (want == "") {
			t.Fatalf("got config %q, want %q", got, want)
		}
	}
	next("")
	for range 3 {
		e.put("config", fourSubnets)
		next(fourSubnets)
		e.put("other", "")
		e.put("config", "rubbish")
		next("rubbish")
		e.delete("config")
		next("")
	}
	if len(values) != 0 {
		t.Errorf("got %q though nothing changed", <-values)
	}
}

func TestDeadline(t *testing.T) {
	e := newEtcd(t)
	e.stop()
	var log logged
	s := e.open(Options{Logger: log.logger()})
	running(t, func(ctx context.Context) error { return s.WatchConfig(ctx, func([]byte) {}) })
	eventually(t, "the loss is known", func() bool { return log.count("etcd is out of reach") == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Config(ctx)
	_, err2 := Open(ctx, Options{Endpoints: e.options.ClientURLs, Username: "bpfnet", Password: "secret"})
	for _, err := range []error{err, err2} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline", err)
		}
	}
	if !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v does not say why the deadline was not met", err)
	}
}

func TestClosedStore(t *testing.T) {
	e := newEtcd(t)
	s, err := Open(t.Context(), Options{Endpoints: e.options.ClientURLs})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	updates := make(chan Update, 1)
	go func() {
		done <- s.Watch(t.Context(), func(u Update) error {
			updates <- u
			return nil
		})
	}()
	receive(t, "snapshot", updates)
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	if err = receive(t, "the watch's end", done); !errors.Is(err, errClosed) {
		t.Errorf("the watch of a closed store ended with %v", err)
	}
	if _, err = s.Config(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("reading from a closed store: error %v", err)
	}
}
