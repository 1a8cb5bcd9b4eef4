// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watch runs Watch and returns what it delivers.
func watch(t *testing.T, s *Store) <-chan Update {
	t.Helper()
	ch := make(chan Update, 1000)
	running(t, func(ctx context.Context) error {
		return s.Watch(ctx, func(u Update) error {
			ch <- u
			return nil
		})
	})
	return ch
}

// summary says an Update in short.
func summary(u Update) string {
	var put []string
	for _, l := range u.Put {
		put = append(put, l.Key+"="+l.PublicIP.String())
	}
	what := ""
	if u.Full {
		what = "full "
	}
	return fmt.Sprintf("%sput %v deleted %v bad %v", what, put, u.Deleted, slices.Sorted(maps.Keys(u.Bad)))
}

func expectUpdate(t *testing.T, updates <-chan Update, want string) Update {
	t.Helper()
	u := receive(t, "update "+want, updates)
	if got := summary(u); got != want {
		t.Fatalf("got update\n     %s\nwant %s", got, want)
	}
	return u
}

func TestWatch(t *testing.T) {
	e := newEtcd(t)
	e.put("config", fourSubnets)
	e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
	e.put("subnets/10.0.2.0-24", "rubbish")
	e.put("subnets/rubbish", vxlanValue("192.168.32.2"))
	e.put("subnets-of-another/10.0.3.0-24", vxlanValue("192.168.32.3"))
	rev := e.put("subnetsx", "")
	updates := watch(t, e.open(Options{}))

	u := expectUpdate(t, updates, "full put [10.0.1.0-24=192.168.32.1] deleted [] bad [10.0.2.0-24 rubbish]")
	want := Lease{Key: "10.0.1.0-24", Subnet: prefix("10.0.1.0/24"), PublicIP: addr("192.168.32.1"),
		Backend: "vxlan", VNI: 1, MAC: mac1, CreateRevision: 3, ModRevision: 3}
	if diff := cmp.Diff(want, u.Put[0], compareAddrs); diff != "" || u.Revision != rev {
		t.Errorf("at revision %d, want %d; lease (-want +got):\n%s", u.Revision, rev, diff)
	}
	rev = e.put("subnets/10.0.3.0-24", ipip("192.168.32.3"))
	if u = expectUpdate(t, updates, "put [10.0.3.0-24=192.168.32.3] deleted [] bad []"); u.Revision != rev {
		t.Errorf("update of revision %d, want %d", u.Revision, rev)
	}
	e.put("subnets/10.0.3.0-24", ipip("192.168.32.3")) // a renewal: no update
	e.put("subnets/10.0.3.0-24", ipip("192.168.32.4"))
	expectUpdate(t, updates, "put [10.0.3.0-24=192.168.32.4] deleted [] bad []")
	e.put("subnets/10.0.2.0-24", ipip("192.168.32.2"))
	expectUpdate(t, updates, "put [10.0.2.0-24=192.168.32.2] deleted [] bad []")
	e.put("subnets/10.0.2.0-24", "{}")
	expectUpdate(t, updates, "put [] deleted [] bad [10.0.2.0-24]")
	e.delete("subnets/10.0.2.0-24")
	expectUpdate(t, updates, "put [] deleted [10.0.2.0-24] bad []")

	// What happens in one revision comes together.
	const subnets = DefaultPrefix + "/subnets/"
	_, err := e.cli.Txn(t.Context()).Then(
		clientv3.OpDelete(subnets+"10.0.1.0-24"),
		clientv3.OpPut(subnets+"10.0.2.0-24", ipip("192.168.32.1")),
		clientv3.OpDelete(subnets+"rubbish"),
		clientv3.OpPut(subnets+"worse", ""),
	).Commit()
	if err != nil {
		t.Fatal(err)
	}
	expectUpdate(t, updates, "put [10.0.2.0-24=192.168.32.1] deleted [10.0.1.0-24 rubbish] bad [worse]")
}

// TestWatchAfterAcquire: what Acquire has read is not read again, unless etcd
// does not know any more what has changed since.
func TestWatchAfterAcquire(t *testing.T) {
	for name, compact := range map[string]bool{"followed": false, "compacted": true} {
		t.Run(name, func(t *testing.T) {
			e := newEtcd(t)
			e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
			e.put("subnets/10.0.2.0-24", "rubbish")
			s := e.open(Options{})
			w := wantOf("192.168.32.245")
			w.Prefer = prefix("10.0.3.0/24")
			acquire(t, s, mustParseConfig(t, `{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}`), w)
			rev := e.put("subnets/10.0.4.0-24", vxlanValue("192.168.32.4"))
			const first = "put [10.0.1.0-24=192.168.32.1 10.0.3.0-24=192.168.32.245"
			if compact {
				if _, err := e.cli.Compact(t.Context(), rev); err != nil {
					t.Fatal(err)
				}
			}
			updates := watch(t, s)
			expectUpdate(t, updates, "full "+first+"] deleted [] bad [10.0.2.0-24]")
			if compact {
				expectUpdate(t, updates, "full "+first+" 10.0.4.0-24=192.168.32.4] deleted [] bad [10.0.2.0-24]")
				return
			}
			expectUpdate(t, updates, "put [10.0.4.0-24=192.168.32.4] deleted [] bad []")
		})
	}
}

// TestWatchAfterAcquireInstead: the first update has not the node's own lease of a network
// that was, in whose stead it has got another.
func TestWatchAfterAcquireInstead(t *testing.T) {
	for name, value := range map[string]string{"sound": vxlanValue("192.168.32.245"), "spoilt": `{"PublicIP":"192.168.32.245","BackendType":"vxlan"}`} {
		t.Run(name, func(t *testing.T) {
			e := newEtcd(t)
			e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
			e.put("subnets/10.9.2.0-24", value)
			s := e.open(Options{})
			w := wantOf("192.168.32.245")
			w.Prefer = prefix("10.0.3.0/24")
			acquire(t, s, mustParseConfig(t, fourSubnets), w)
			updates := watch(t, s)
			expectUpdate(t, updates, "full put [10.0.1.0-24=192.168.32.1 10.0.3.0-24=192.168.32.245] deleted [] bad []")
		})
	}
}

func TestWatchEmpty(t *testing.T) {
	e := newEtcd(t)
	expectUpdate(t, watch(t, e.open(Options{Prefix: "/other"})), "full put [] deleted [] bad []")
}

func TestWatchCallbackError(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	stop := errors.New("enough")
	if err := s.Watch(t.Context(), func(Update) error { return stop }); !errors.Is(err, stop) || err.Error() != stop.Error() {
		t.Errorf("stopped at the first update: error %v, want just its own", err)
	}
	err := s.Watch(t.Context(), func(u Update) error {
		if u.Full {
			e.put("subnets/10.0.1.0-24", vxlanValue("192.168.32.1"))
			return nil
		}
		return stop
	})
	if !errors.Is(err, stop) || err.Error() != stop.Error() {
		t.Errorf("stopped at the second update: error %v, want just its own", err)
	}
}

// fill puts n leases.
func (e *etcd) fill(n int) {
	e.t.Helper()
	p := prefix("10.0.0.0/24")
	for n > 0 {
		var ops []clientv3.Op
		for ; n > 0 && len(ops) < 100; n-- {
			ops = append(ops, clientv3.OpPut(DefaultPrefix+"/subnets/"+leaseKey(p, netip.Prefix{}), ipip("192.168.32.1")))
			p, _ = nextSubnet(p)
		}
		if _, err := e.cli.Txn(e.t.Context()).Then(ops...).Commit(); err != nil {
			e.t.Fatal(err)
		}
	}
}

// TestWatchPages lists more leases than fit a page, of one revision though
// others are put meanwhile.
func TestWatchPages(t *testing.T) {
	const n = 2*pageSize + 1
	e := newEtcd(t)
	e.fill(n)
	s := e.open(Options{})
	updates := watch(t, s)
	for i := range 50 {
		e.put(fmt.Sprintf("subnets/9.%d.0.0-16", i), ipip("192.168.32.1"))
	}
	seen := map[string]bool{}
	u := receive(t, "snapshot", updates)
	if !u.Full || len(u.Put) < n {
		t.Fatalf("first update: full %v, %d leases, want at least %d", u.Full, len(u.Put), n)
	}
	for {
		for _, l := range u.Put {
			if seen[l.Key] || l.ModRevision > u.Revision {
				t.Fatalf("%s of revision %d, again or too early at %d", l.Key, l.ModRevision, u.Revision)
			}
			seen[l.Key] = true
		}
		if len(seen) == n+50 {
			return
		}
		if u = receive(t, "the rest", updates); u.Full {
			t.Fatal("listed twice")
		}
	}
}

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
