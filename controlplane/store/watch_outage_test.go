// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWatchUnderCompaction lists while etcd forgets each revision at once.
func TestWatchUnderCompaction(t *testing.T) {
	const n = 2*pageSize + 1
	var log logged
	e := newEtcd(t)
	e.fill(n)
	updates := watch(t, e.open(Options{Logger: log.logger()}))
	for i := range 100 {
		rev := e.put(fmt.Sprintf("subnets/9.%d.0.0-16", i), ipip("192.168.32.1"))
		if _, err := e.cli.Compact(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for len(seen) != n+100 {
		u := receive(t, "all leases", updates)
		if u.Full {
			clear(seen)
		}
		for _, l := range u.Put {
			seen[l.Key] = true
		}
	}
	if log.String() != "" {
		t.Errorf("logged, though etcd was there all the time:\n%s", &log)
	}
}

// TestWatchWhileEtcdIsAway stops the server under a watch and starts it again.
func TestWatchWhileEtcdIsAway(t *testing.T) {
	var log logged
	e := newEtcd(t)
	e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
	s := e.open(Options{Logger: log.logger()})
	updates := watch(t, s)
	expectUpdate(t, updates, "full put [10.0.1.0-24=192.168.32.1] deleted [] bad []")
	h := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	receive(t, "own lease", updates)
	events, _ := keep(t, h, time.Hour)
	configs := make(chan string, 10)
	running(t, func(ctx context.Context) error {
		return s.WatchConfig(ctx, func(b []byte) { configs <- string(b) })
	})
	receive(t, "config", configs)
	for i := range 3 {
		e.stop()
		eventually(t, "the loss is logged", func() bool { return log.count("etcd is out of reach") == i+1 })
		e.start()
		eventually(t, "the return is logged", func() bool { return log.count("etcd is back") == i+1 })
		e.put("subnets/10.0.1.0-24", vxlanValue(fmt.Sprintf("192.168.33.%d", i+1)))
		expectUpdate(t, updates, fmt.Sprintf("put [10.0.1.0-24=192.168.33.%d] deleted [] bad []", i+1))
	}
	if n := strings.Count(log.String(), "\n"); n != 6 {
		t.Errorf("%d lines logged, want one for each loss and each return:\n%s", n, &log)
	}
	if !strings.Contains(log.String(), "connection refused") {
		t.Errorf("the log does not tell why etcd is out of reach:\n%s", &log)
	}
	if len(events) != 0 || len(configs) != 0 {
		t.Errorf("nothing happened to lease and config, but there are %d events and %d configs", len(events), len(configs))
	}
}

// TestWatchCatchesUp cuts a watch off while leases change.
func TestWatchCatchesUp(t *testing.T) {
	for _, tt := range []struct {
		name    string
		compact bool
		want    string
	}{
		{"from etcd's history", false, "put [10.0.2.0-24=192.168.32.2] deleted [10.0.1.0-24] bad []"},
		{"by listing again", true, "full put [10.0.2.0-24=192.168.32.2] deleted [] bad []"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEtcd(t)
			p := newProxy(t, e.options.ClientURLs[0])
			e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
			s := e.open(Options{Endpoints: []string{p.endpoint()}})
			updates := watch(t, s)
			expectUpdate(t, updates, "full put [10.0.1.0-24=192.168.32.1] deleted [] bad []")
			p.setCut(true)
			e.delete("subnets/10.0.1.0-24")
			rev := e.put("subnets/10.0.2.0-24", vxlanValue("192.168.32.2"))
			if tt.compact {
				if _, err := e.cli.Compact(t.Context(), rev); err != nil {
					t.Fatal(err)
				}
			}
			p.setCut(false)
			got := map[bool]map[string]string{}
			eventually(t, "all has come", func() bool {
				u := receive(t, tt.want, updates)
				if got[u.Full] == nil {
					got[u.Full] = map[string]string{}
				}
				for _, l := range u.Put {
					got[u.Full][l.Key] = "put"
				}
				for _, key := range u.Deleted {
					got[u.Full][key] = "deleted"
				}
				return u.Revision == rev
			})
			want := map[bool]map[string]string{false: {"10.0.1.0-24": "deleted", "10.0.2.0-24": "put"}}
			if tt.compact {
				want = map[bool]map[string]string{true: {"10.0.2.0-24": "put"}}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("by full updates and others (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWatchLongCatchUp has a watch catch up with more revisions than etcd
// sends in one answer, and be cut off again in between.
func TestWatchLongCatchUp(t *testing.T) {
	const n = 3000
	e := newEtcd(t)
	p := newProxy(t, e.options.ClientURLs[0])
	updates := watch(t, e.open(Options{Endpoints: []string{p.endpoint()}}))
	expectUpdate(t, updates, "full put [] deleted [] bad []")
	p.setCut(true)
	var rev int64
	for i := range n {
		rev = e.put(fmt.Sprintf("subnets/10.%d.%d.0-24", i/256, i%256), ipip("192.168.32.1"))
	}
	p.setCut(false)
	seen := map[string]int{}
	for i := 0; ; i++ {
		u := receive(t, "the rest", updates)
		for _, l := range u.Put {
			seen[l.Key]++
		}
		if u.Full {
			t.Fatal("listed again, though etcd knew its history")
		}
		if u.Revision == rev {
			break
		}
		p.setCut(true)
		p.setCut(false)
	}
	if len(seen) != n {
		t.Errorf("%d leases came, want %d", len(seen), n)
	}
	for key, times := range seen {
		if times != 1 {
			t.Errorf("%s came %d times", key, times)
		}
	}
}

// TestWatchNewCluster has etcd come back with other contents, at a revision
// that the watch has seen and at one that it has not.
func TestWatchNewCluster(t *testing.T) {
	for _, more := range []int{0, 20} {
		t.Run(fmt.Sprintf("%d more revisions", more), func(t *testing.T) {
			e := newEtcd(t)
			p := newProxy(t, e.options.ClientURLs[0])
			for i := range 5 {
				e.put("subnets/10.0.1.0-24", vxlanValue(fmt.Sprintf("192.168.32.%d", i+1)))
			}
			updates := watch(t, e.open(Options{Endpoints: []string{p.endpoint()}}))
			expectUpdate(t, updates, "full put [10.0.1.0-24=192.168.32.5] deleted [] bad []")
			p.setCut(true)
			e.stop()
			e.options.Dir = t.TempDir()
			e.start()
			e.put("subnets/10.0.2.0-24", vxlanValue("192.168.32.2"))
			for range more {
				e.put("other", "")
			}
			p.setCut(false)
			expectUpdate(t, updates, "full put [10.0.2.0-24=192.168.32.2] deleted [] bad []")
		})
	}
}

// TestWatchStartsBeforeEtcd opens a store whose etcd is not there yet.
func TestWatchStartsBeforeEtcd(t *testing.T) {
	var log logged
	e := newEtcd(t)
	e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
	e.put("config", fourSubnets)
	e.stop()
	s := e.open(Options{Logger: log.logger()})
	updates := watch(t, s)
	config, held := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Config(t.Context())
		config <- err
	}()
	go func() {
		_, err := s.Acquire(t.Context(), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
		held <- err
	}()
	eventually(t, "the loss is logged", func() bool { return log.count("etcd is out of reach") == 1 })
	e.start()
	for _, ch := range []chan error{config, held} {
		if err := receive(t, "an answer", ch); err != nil {
			t.Error(err)
		}
	}
	if u := receive(t, "leases", updates); !u.Full || u.Put[0].Key != "10.0.1.0-24" {
		t.Errorf("first update is %s", summary(u))
	}
	eventually(t, "the return is logged", func() bool { return log.count("etcd is back") == 1 })
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines logged, want 2:\n%s", n, &log)
	}
}
