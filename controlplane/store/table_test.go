// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// put is a key and value as etcd has them.
func put(key, value string, create, mod int64) (string, *mvccpb.KeyValue) {
	return key, &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: create, ModRevision: mod}
}

func ipip(node string) string { return `{"PublicIP":"` + node + `","BackendType":"ipip"}` }

func TestTable(t *testing.T) {
	const node1, node2 = "192.168.0.1", "192.168.0.2"
	tab := newTable(nil)
	for i, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"first", func() { tab.put(put("10.1.0.0-24", ipip(node1), 1, 1)) }, "put [10.1.0.0-24=192.168.0.1] deleted [] bad []"},
		{"renewed", func() { tab.put(put("10.1.0.0-24", ipip(node1), 1, 2)) }, "put [] deleted [] bad []"},
		{"changed", func() { tab.put(put("10.1.0.0-24", ipip(node2), 1, 3)) }, "put [10.1.0.0-24=192.168.0.2] deleted [] bad []"},
		{"spoilt", func() { tab.put(put("10.1.0.0-24", "x", 1, 4)) },
			"put [] deleted [] bad [10.1.0.0-24]"},
		{"mended as it was", func() { tab.put(put("10.1.0.0-24", ipip(node2), 1, 5)) }, "put [10.1.0.0-24=192.168.0.2] deleted [] bad []"},
		{"moved in one revision", func() {
			tab.remove("10.1.0.0-24")
			tab.put(put("10.3.0.0-24", ipip(node2), 6, 6))
		}, "put [10.3.0.0-24=192.168.0.2] deleted [10.1.0.0-24] bad []"},
		{"deleted and put", func() {
			tab.remove("10.3.0.0-24")
			tab.put(put("10.3.0.0-24", ipip(node2), 8, 8))
		}, "put [10.3.0.0-24=192.168.0.2] deleted [] bad []"},
		{"put and deleted", func() {
			tab.put(put("10.4.0.0-24", ipip(node2), 9, 9))
			tab.remove("10.4.0.0-24")
		}, "put [] deleted [10.4.0.0-24] bad []"},
		{"spoilt and deleted", func() {
			tab.put(put("10.3.0.0-24", "x", 8, 10))
			tab.remove("10.3.0.0-24")
		}, "put [] deleted [10.3.0.0-24] bad []"},
	} {
		step.do()
		u := tab.flush(int64(i))
		if got := summary(u); got != step.want {
			t.Errorf("%s:\n got %s\nwant %s", step.name, got, step.want)
		}
	}
}

func TestUpdateErrorsAreLines(t *testing.T) {
	tab := newTable(nil)
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
			tab := newTable(nil)
			for _, p := range pairs {
				tab.put(p.key, p.kv)
			}
			if u := tab.flush(n); len(u.Put) != n {
				b.Fatalf("%d leases, want %d", len(u.Put), n)
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		tab := newTable(nil)
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
