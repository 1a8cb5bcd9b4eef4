// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// put is a key and value as etcd has them.
func put(key, value string, create, mod int64) (string, *mvccpb.KeyValue) {
	return key, &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: create, ModRevision: mod}
}

func ipip(node string) string { return `{"PublicIP":"` + node + `","BackendType":"ipip"}` }

// summary says an Update in short.
func summary(u Update) string {
	var put, bad []string
	for _, l := range u.Put {
		put = append(put, l.Key)
	}
	for _, key := range slices.Sorted(maps.Keys(u.Bad)) {
		bad = append(bad, key+": "+u.Bad[key].Error())
	}
	return fmt.Sprintf("put %v deleted %v bad %v", put, u.Deleted, bad)
}

func TestTable(t *testing.T) {
	const node1, node2 = "192.168.0.1", "192.168.0.2"
	tab := newTable()
	for i, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"first", func() { tab.put(put("10.1.0.0-24", ipip(node1), 1, 1)) }, "put [10.1.0.0-24] deleted [] bad []"},
		{"renewed", func() { tab.put(put("10.1.0.0-24", ipip(node1), 1, 2)) }, "put [] deleted [] bad []"},
		{"changed", func() { tab.put(put("10.1.0.0-24", ipip(node2), 1, 3)) }, "put [10.1.0.0-24] deleted [] bad []"},
		{"a younger one that overlaps", func() { tab.put(put("10.1.0.0-16", ipip(node1), 4, 4)) },
			"put [10.1.0.0-24] deleted [] bad [10.1.0.0-16: subnet overlaps that of the older lease 10.1.0.0-24: delete one of the two keys]"},
		{"another beside", func() { tab.put(put("10.2.0.0-24", ipip(node2), 5, 5)) }, "put [10.2.0.0-24] deleted [] bad []"},
		{"older gone", func() { tab.remove("10.1.0.0-24") }, "put [10.1.0.0-16] deleted [10.1.0.0-24] bad []"},
		{"back, now younger", func() { tab.put(put("10.1.0.0-24", ipip(node2), 6, 6)) },
			"put [10.1.0.0-16] deleted [] bad [10.1.0.0-24: subnet overlaps that of the older lease 10.1.0.0-16: delete one of the two keys]"},
		{"older spoilt", func() { tab.put(put("10.1.0.0-16", "x", 4, 7)) },
			"put [10.1.0.0-24] deleted [] bad [10.1.0.0-16: value is no lease: invalid character 'x' looking for beginning of value]"},
		{"moved in one revision", func() {
			tab.remove("10.2.0.0-24")
			tab.put(put("10.3.0.0-24", ipip(node2), 8, 8))
		}, "put [10.3.0.0-24] deleted [10.2.0.0-24] bad []"},
		{"deleted and put", func() {
			tab.remove("10.3.0.0-24")
			tab.put(put("10.3.0.0-24", ipip(node2), 10, 10))
		}, "put [10.3.0.0-24] deleted [] bad []"},
		{"bad one gone", func() { tab.remove("10.1.0.0-16") }, "put [] deleted [10.1.0.0-16] bad []"},
		{"unknown gone", func() { tab.remove("10.9.0.0-16") }, "put [] deleted [] bad []"},
		{"same IPv6 subnet", func() {
			tab.put(put("10.4.0.0-24&fc00::-64", ipip(node1), 11, 11))
			tab.put(put("10.5.0.0-24&fc00::-64", ipip(node2), 11, 11))
		}, "put [10.4.0.0-24&fc00::-64] deleted [] " +
			"bad [10.5.0.0-24&fc00::-64: subnet overlaps that of the older lease 10.4.0.0-24&fc00::-64: delete one of the two keys]"},
	} {
		step.do()
		u := tab.flush(int64(i))
		if got := summary(u); got != step.want {
			t.Errorf("%s:\n got %s\nwant %s", step.name, got, step.want)
		}
	}
}

// TestTableAgainstPlainOne makes random changes to a table and to a plain map,
// and compares what a reader of the updates knows with what follows from the
// map by comparing each lease with each other.
func TestTableAgainstPlainOne(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	tab, plain := newTable(), map[string]Lease{}
	good, bad := map[string]Lease{}, map[string]bool{}
	for rev := int64(1); rev <= 3000; rev++ {
		length := 20 + rng.IntN(6)
		a := netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(8) << 4), byte(rng.IntN(4) << 6)})
		p := netip.PrefixFrom(a, length).Masked()
		key := leaseKey(p, netip.Prefix{})
		if _, there := plain[key]; there && rng.IntN(3) > 0 {
			delete(plain, key)
			tab.remove(key)
		} else {
			create := plain[key].CreateRevision
			if !there {
				create = rev
			}
			node := fmt.Sprintf("192.168.0.%d", 1+rng.IntN(250))
			k, kv := put(key, ipip(node), create, rev)
			l, err := ParseLease(k, kv.Value)
			if err != nil {
				t.Fatal(err)
			}
			l.CreateRevision, l.ModRevision = create, rev
			plain[key] = l
			tab.put(k, kv)
		}
		if rng.IntN(3) == 0 {
			apply(tab.flush(rev), good, bad)
		}
		if rng.IntN(50) != 0 {
			continue
		}
		apply(tab.flush(rev), good, bad)
		wantGood, wantBad := judge(plain)
		if diff := cmp.Diff(wantGood, good, compareAddrs); diff != "" {
			t.Fatalf("revision %d: leases (-want +got):\n%s", rev, diff)
		}
		if diff := cmp.Diff(wantBad, bad); diff != "" {
			t.Fatalf("revision %d: bad leases (-want +got):\n%s", rev, diff)
		}
	}
	for key := range plain {
		tab.remove(key)
	}
	if len(tab.v4.items) != 0 || tab.v4.child != [2]*prefixTree[*record]{} {
		t.Errorf("the tree of an empty table still holds %+v", tab.v4)
	}
}

// apply does what a reader of updates does.
func apply(u Update, good map[string]Lease, bad map[string]bool) {
	for _, l := range u.Put {
		good[l.Key] = l
		delete(bad, l.Key)
	}
	for _, key := range u.Deleted {
		delete(good, key)
		delete(bad, key)
	}
	for key := range u.Bad {
		delete(good, key)
		bad[key] = true
	}
}

func judge(leases map[string]Lease) (good map[string]Lease, bad map[string]bool) {
	good, bad = map[string]Lease{}, map[string]bool{}
	for key, l := range leases {
		good[key] = l
		for _, o := range leases {
			if o.Subnet.Overlaps(l.Subnet) && o.CreateRevision < l.CreateRevision {
				delete(good, key)
				bad[key] = true
			}
		}
	}
	return good, bad
}

func TestUpdateErrorsAreLines(t *testing.T) {
	tab := newTable()
	tab.put(put("10.1.0.0-24", "{\n\n}", 1, 1))
	for key, err := range tab.flush(1).Bad {
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error of several lines: %q", key, err)
		}
	}
}

// BenchmarkTable measures a snapshot of many leases and a change after it.
func BenchmarkTable(b *testing.B) {
	const n = 100_000
	type pair struct {
		key string
		kv  *mvccpb.KeyValue
	}
	var pairs []pair
	p := prefix("10.0.0.0/24")
	for i := range int64(n) {
		key, kv := put(leaseKey(p, netip.Prefix{}), ipip("192.168.0.1"), i+1, i+1)
		pairs = append(pairs, pair{key, kv})
		p, _ = nextSubnet(p)
	}
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tab := newTable()
			for _, p := range pairs {
				tab.put(p.key, p.kv)
			}
			if u := tab.flush(n); len(u.Put) != n {
				b.Fatalf("%d leases, want %d", len(u.Put), n)
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		tab := newTable()
		for _, p := range pairs {
			tab.put(p.key, p.kv)
		}
		tab.flush(n)
		b.ReportAllocs()
		for b.Loop() {
			tab.remove(pairs[n/2].key)
			tab.put(pairs[n/2].key, pairs[n/2].kv)
			if u := tab.flush(n); len(u.Put) != 1 {
				b.Fatalf("%d leases, want 1", len(u.Put))
			}
		}
	})
}
