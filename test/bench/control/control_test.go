// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		sorted []time.Duration
		share  float64
		want   time.Duration
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
		{hundred[:3], 0.5, 2}, {hundred[:3], 0.99, 3}, {hundred[:1], 0.99, 1},
	} {
		if got := quantile(test.sorted, test.share); got != test.want {
			t.Errorf("the %v quantile of 1 to %d is %d, want %d", test.share, len(test.sorted), got, test.want)
		}
	}
}

const status = "Name:\tbpfnet\nVmHWM:\t   50400 kB\nVmRSS:\t   46200 kB\nThreads:\t12\n"

func TestStatusBytes(t *testing.T) {
	if got, err := statusBytes([]byte(status), "VmRSS:"); got != 46200<<10 || err != nil {
		t.Errorf("VmRSS is %d, error %v, want %d", got, err, 46200<<10)
	}
	for _, bad := range []string{"", "VmRSS:\t5\n", "VmRSS:\t-5 kB\n", "VmRSS:\t5 MB\n", "XVmRSS:\t5 kB\n"} {
		if got, err := statusBytes([]byte(bad), "VmRSS:"); err == nil {
			t.Errorf("%q gives %d, want an error", bad, got)
		}
	}
}

func FuzzStatusBytes(f *testing.F) {
	f.Add([]byte(status))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := statusBytes(b, "VmRSS:"); err != nil && n != 0 {
			t.Errorf("%d beside error %v", n, err)
		}
	})
}

// TestRecords: every node of the largest cluster has a lease of its own, which the daemon can read,
// and none of the subnets that the daemon chooses its own from.
func TestRecords(t *testing.T) {
	config, err := store.ParseConfig([]byte(networkConfig))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 255, 256, 65536, maxNodes - 1} {
		key, value, err := record(n)
		if err != nil {
			t.Fatal(err)
		}
		l, err := store.ParseLease(key[strings.LastIndexByte(key, '/')+1:], []byte(value))
		if err != nil {
			t.Errorf("node %d: %v", n, err)
		}
		if l.Subnet != subnetOf(n) || !config.Network.Contains(l.Subnet.Addr()) || l.Subnet.Bits() != config.SubnetLen || config.Network.Contains(l.PublicIP) {
			t.Errorf("node %d has %+v", n, l)
		}
	}
	if own := netip.PrefixFrom(config.SubnetMin, subnetLen); subnetOf(0).Addr().Compare(own.Addr()) <= 0 {
		t.Errorf("the first node has %v, which the daemon may take", subnetOf(0))
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Nodes: []int{1, 200_000}, Rate: 100, Changes: 25_000}, ""},
		{Options{Nodes: []int{200_000}, Rate: 100, Changes: 25_001}, "a cluster of 200000 nodes and 50002 that join: use 1 to 250000 in all"},
		{Options{Rate: 100, Changes: 1}, "no cluster to measure: give numbers of nodes"},
		{Options{Nodes: []int{10, 0}, Rate: 100, Changes: 1}, "a cluster of 0 nodes and 2 that join: use 1 to 250000 in all"},
		{Options{Nodes: []int{10}, Changes: 1}, "0 changes a second: use 1 to 10000"},
		{Options{Nodes: []int{10}, Rate: 1}, "0 changes: use 1 to 250000"},
	} {
		got := ""
		if err := test.o.Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%+v: error %q, want %q", test.o, got, test.want)
		}
	}
}
