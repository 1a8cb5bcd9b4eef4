// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

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
