// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// keep runs Keep and returns what it reports.
func keep(t *testing.T, h *Held, margin time.Duration) (events <-chan Event, stop func()) {
	t.Helper()
	ch := make(chan Event, 100)
	return ch, running(t, func(ctx context.Context) error {
		return h.Keep(ctx, margin, func(e Event) { ch <- e })
	})
}

func expect(t *testing.T, events <-chan Event, kind EventKind, text string) Event {
	t.Helper()
	e := receive(t, string(kind), events)
	var err string
	if e.Err != nil {
		err = e.Err.Error()
	}
	if e.Kind != kind || !strings.Contains(err, text) || (text == "") != (err == "") || strings.Contains(err, "\n") {
		t.Fatalf("got event %+v, want %s with one line that says %q", e, kind, text)
	}
	return e
}

func TestKeepRenews(t *testing.T) {
	const life = time.Hour
	e := newEtcd(t)
	h := acquire(t, e.open(Options{LeaseTTL: life}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	first := h.Lease()
	_, before := e.get("subnets/" + first.Key)
	events, seen := make(chan Event), make(chan bool)
	running(t, func(ctx context.Context) error { // that does not renew again before what it did has been looked at
		return h.Keep(ctx, life-100*time.Millisecond, func(e Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
			select {
			case <-seen:
			case <-ctx.Done():
			}
		})
	})
	for range 4 {
		l := expect(t, events, Renewed, "").Lease
		if l.Key != first.Key || l.CreateRevision != first.CreateRevision || l != h.Lease() {
			t.Errorf("renewed %+v, was %+v", l, first)
		}
		_, grant := e.get("subnets/" + l.Key)
		if _, err := e.cli.Revoke(t.Context(), before); err != nil { // as when its time is over
			t.Errorf("revoke %x: %v", before, err)
		}
		if value, after := e.get("subnets/" + l.Key); value != vxlanValue("192.168.32.245") || grant == before || after != grant {
			t.Errorf("etcd holds %q by grant %x, before by %x", value, grant, before)
		}
		before = grant
		seen <- true
	}
}

func TestKeepMargin(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	for _, margin := range []time.Duration{-time.Second, 0, 24 * time.Hour, 48 * time.Hour} {
		if err := h.Keep(t.Context(), margin, nil); err == nil || !strings.Contains(err.Error(), "renew margin") {
			t.Errorf("margin %v: error %v", margin, err)
		}
	}
}

func TestKeepPutsBack(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	key := "subnets/" + h.Lease().Key
	events, _ := keep(t, h, time.Hour)

	e.delete(key)
	l := expect(t, events, Recreated, "").Lease
	value, grant := e.get(key)
	if value != vxlanValue("192.168.32.245") || l.CreateRevision != l.ModRevision || l != h.Lease() {
		t.Fatalf("put back %+v, etcd holds %s", l, value)
	}
	// As when it expires.
	if _, err := e.cli.Revoke(t.Context(), grant); err != nil {
		t.Fatal(err)
	}
	if l = expect(t, events, Recreated, "").Lease; l != h.Lease() {
		t.Errorf("put back %+v, Lease returns %+v", l, h.Lease())
	}
	if value, _ = e.get(key); value != vxlanValue("192.168.32.245") {
		t.Errorf("etcd holds %s", value)
	}
}

// TestKeepFindsItExpired is of a node that slept for longer than its lease.
func TestKeepFindsItExpired(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{LeaseTTL: time.Second}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	eventually(t, "the lease has expired", func() bool {
		value, _ := e.get("subnets/" + h.Lease().Key)
		return value == ""
	})
	events, _ := keep(t, h, time.Millisecond)
	expect(t, events, Recreated, "")
}

func TestKeepAltered(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	key := "subnets/" + h.Lease().Key
	events, _ := keep(t, h, time.Hour)

	const other, sameNode = `{"PublicIP":"192.168.32.9"}`, `{"PublicIP":"192.168.32.245","BackendType":"ipip"}`
	for _, step := range []struct{ value, text string }{
		{other, "was overwritten by node 192.168.32.9"},
		{sameNode, "was overwritten with this node's PublicIP 192.168.32.245 but other data"},
		{"rubbish", "was overwritten by what is none"},
	} {
		rev := e.put(key, step.value)
		if l := expect(t, events, Altered, step.text).Lease; l.ModRevision != rev {
			t.Errorf("reported as of revision %d, want %d", l.ModRevision, rev)
		}
		if value, _ := e.get(key); value != step.value {
			t.Fatalf("etcd holds %s, want %s left alone", value, step.value)
		}
	}
	// Deleted, it is put back.
	e.delete(key)
	expect(t, events, Recreated, "")
	// Mended by hand, it has no grant and is taken for a reservation.
	e.put(key, other)
	expect(t, events, Altered, "was overwritten by node")
	e.put(key, vxlanValue("192.168.32.245"))
	expect(t, events, Restored, "")
	expect(t, events, Reserved, "")
	select {
	case ev := <-events:
		t.Errorf("event %+v of a key that did not change", ev)
	default:
	}
}

// TestKeepSharedAddress has two nodes with one PublicIP hold one lease: both are told at once, and then it is left as it is.
func TestKeepSharedAddress(t *testing.T) {
	const again = "was written again by another process: if another node has the PublicIP 192.168.32.245 too"
	e := newEtcd(t)
	c := mustParseConfig(t, fourSubnets)
	one := acquire(t, e.open(Options{}), c, wantOf("192.168.32.245"))
	events, _ := keep(t, one, time.Hour)
	two := acquire(t, e.open(Options{}), c, wantOf("192.168.32.245"))
	key, came := "subnets/"+one.Lease().Key, two.Lease().ModRevision
	events2, stop2 := keep(t, two, time.Hour)
	expect(t, events, Altered, again)
	expect(t, events2, Altered, again)
	eventually(t, "the first knows its answer", func() bool { return one.Lease().ModRevision == came+1 })
	if value, grant := e.get(key); two.Lease().ModRevision != came+1 || value != vxlanValue("192.168.32.245") || grant != two.life.grant {
		t.Errorf("%s at revision %d by grant %x, want one answer to revision %d by %x", value, two.Lease().ModRevision, grant, came, two.life.grant)
	}
	stop2()
	w := wantOf("192.168.32.245")
	w.VNI = 2
	three := acquire(t, e.open(Options{}), c, w)
	came = three.Lease().ModRevision
	events3, _ := keep(t, three, time.Hour)
	expect(t, events, Altered, "was overwritten with this node's PublicIP 192.168.32.245 but other data")
	expect(t, events3, Altered, again)
	if three.Lease().Key != one.Lease().Key || three.Lease().ModRevision != came+1 {
		t.Errorf("lease %+v, want one answer to %s at revision %d", three.Lease(), one.Lease().Key, came)
	}
	for _, more := range []<-chan Event{events, events2, events3} {
		if len(more) > 0 {
			t.Errorf("event %+v of a lease that is left as it is", <-more)
		}
	}
}

// TestKeepRivalGoes: whether the other is there still is asked, by a renewal, and believed.
func TestKeepRivalGoes(t *testing.T) {
	e := newEtcd(t)
	c := mustParseConfig(t, fourSubnets)
	one := acquire(t, e.open(Options{}), c, wantOf("192.168.32.245"))
	two := acquire(t, e.open(Options{}), c, wantOf("192.168.32.245"))
	var got []Event
	look := func(h *Held) time.Time {
		t.Helper()
		got = nil
		_, wake, err := h.look(t.Context(), time.Hour, func(e Event) { got = append(got, e) })
		if err != nil {
			t.Fatal(err)
		}
		return wake
	}
	says := func(kind EventKind) {
		t.Helper()
		if kind == "" && len(got) == 0 || len(got) == 1 && got[0].Kind == kind {
			return
		}
		t.Fatalf("events %+v, want %q", got, kind)
	}
	wake := look(one)
	says(Altered)
	if until := time.Until(wake); until <= 0 || until > askEvery {
		t.Errorf("looks again in %v", until)
	}
	for range 2 { // the other is there
		one.rival.ask = time.Now()
		look(one)
		says("")
		look(two)
		says(Altered)
		look(one)
		says(Altered)
	}
	one.rival.ask = time.Now()
	if wake = look(one); time.Until(wake) > answerWithin {
		t.Errorf("waits %v for the answer", time.Until(wake))
	}
	says("")
	one.rival.quiet = time.Now()
	if wake = look(one); time.Until(wake) < time.Hour {
		t.Errorf("who is alone looks again in %v", time.Until(wake))
	}
	says(Renewed)
}

// TestKeepUnanswered is of a put that etcd did but did not answer.
func TestKeepUnanswered(t *testing.T) {
	e := newEtcd(t)
	s := e.open(Options{})
	h := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	var err error
	if h.tried, err = s.grant(t.Context()); err != nil {
		t.Fatal(err)
	}
	key := "subnets/" + h.Lease().Key
	resp, err := e.cli.Put(t.Context(), DefaultPrefix+"/"+key, string(h.value), clientv3.WithLease(h.tried.grant))
	if err != nil {
		t.Fatal(err)
	}
	events, _ := keep(t, h, time.Hour)
	if l := expect(t, events, Renewed, "").Lease; l.ModRevision != resp.Header.Revision {
		t.Errorf("renewed at revision %d, want %d", l.ModRevision, resp.Header.Revision)
	}
	if value, grant := e.get(key); value != string(h.value) || grant != h.tried.grant {
		t.Errorf("etcd holds %s by grant %x, want it as it was put", value, grant)
	}
}

func TestKeepLost(t *testing.T) {
	e := newEtcd(t)
	w := wantOf("192.168.32.245")
	w.Prefer = prefix("10.0.2.0/24")
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), w)
	events, _ := keep(t, h, time.Hour)
	// In one transaction, as if another node had been there first.
	_, err := e.cli.Txn(t.Context()).Then(
		clientv3.OpDelete(DefaultPrefix+"/subnets/10.0.2.0-24"),
		clientv3.OpPut(DefaultPrefix+"/subnets/10.0.2.128-25", ipip("192.168.32.9")),
	).Commit()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Lost, "lease 10.0.2.0-24 is gone and its subnet is that of lease 10.0.2.128-25")
	if value, _ := e.get("subnets/10.0.2.0-24"); value != "" {
		t.Errorf("put back over another: %s", value)
	}
}

func TestRelease(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	events, stop := keep(t, h, time.Hour)
	stop()
	if err := h.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if value, _ := e.get("subnets/" + h.Lease().Key); value != "" {
		t.Errorf("etcd still holds %s", value)
	}
	if resp, err := e.cli.Leases(t.Context()); err != nil || len(resp.Leases) != 0 {
		t.Errorf("grants %v, error %v, want none", resp, err)
	}
	if len(events) != 0 {
		t.Errorf("event %+v of a lease that nothing happened to", <-events)
	}
}

func TestReleaseLeavesOthers(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	e.put("subnets/"+h.Lease().Key, ipip("192.168.32.9"))
	if err := h.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if value, _ := e.get("subnets/" + h.Lease().Key); value != ipip("192.168.32.9") {
		t.Errorf("etcd holds %q, want what the other wrote", value)
	}
}

// TestKeepWhileEtcdIsAway stops etcd for longer than the lease lives.
func TestKeepWhileEtcdIsAway(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{LeaseTTL: 3 * time.Second}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	events, _ := keep(t, h, 2*time.Second)
	receive(t, "event", events) // that it is renewed, or was too late
	e.stop()
	over := time.Now().Add(3 * time.Second)
	eventually(t, "the lease is over", func() bool { return time.Now().After(over) })
	before := h.Lease().ModRevision
	e.start()
	// Whether it expired or not depends on how soon the server counts again.
	for last := int64(0); last <= before; { // what came before the stop is still there
		ev := receive(t, "event", events)
		if ev.Kind != Recreated && ev.Kind != Renewed {
			t.Errorf("got event %+v", ev)
		}
		last = ev.Lease.ModRevision
	}
	eventually(t, "etcd has the lease", func() bool {
		value, grant := e.get("subnets/" + h.Lease().Key)
		return value == vxlanValue("192.168.32.245") && grant != 0
	})
}

// TestKeepInNewCluster has etcd come back empty.
func TestKeepInNewCluster(t *testing.T) {
	e := newEtcd(t)
	h := acquire(t, e.open(Options{}), mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	events, _ := keep(t, h, time.Hour)
	e.stop()
	e.options.Dir = t.TempDir()
	e.start()
	expect(t, events, Recreated, "")
	if value, _ := e.get("subnets/" + h.Lease().Key); value != vxlanValue("192.168.32.245") {
		t.Errorf("etcd holds %q", value)
	}
}
