// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1}, 5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(test.values)
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
		if !slices.Equal(before, test.values) {
			t.Errorf("median changed %v to %v", before, test.values)
		}
	}
}

// TestTax: the figures are those that the project's design measured for 64-byte packets.
func TestTax(t *testing.T) {
	for name, test := range map[string]struct {
		rate, host, netlink float64
		want                float64
		ok                  bool
	}{
		"as fast as the host":   {866e3, 866e3, 429e3, 0, true},
		"as slow as netlink":    {429e3, 866e3, 429e3, 1, true},
		"eBPF prototype":        {730e3, 866e3, 429e3, 0.183, true},
		"slower than netlink":   {300e3, 866e3, 429e3, 1.853, true},
		"faster than the host":  {900e3, 866e3, 429e3, -0.037, true},
		"netlink costs nothing": {730e3, 866e3, 866e3, 0, false},
		"netlink is faster":     {730e3, 866e3, 900e3, 0, false},
	} {
		got, ok := tax(test.rate, test.host, test.netlink)
		if math.Abs(got-test.want) > 0.001 || ok != test.ok {
			t.Errorf("%s: tax %.3f, %v, want %.3f, %v", name, got, ok, test.want, test.ok)
		}
	}
}

func TestRates(t *testing.T) {
	c := traffic.Count{Ops: 500, Bytes: 4 * superpacket, At: 2 * time.Second}
	busy := 100 * time.Microsecond
	for name, test := range map[string]struct {
		unit      unit
		rate, cpu float64
	}{
		"stream":  {bits, 4 * superpacket * 8 / 2, 25_000},
		"packets": {packets, 250, 200},
	} {
		if got := test.unit.rate(c); got != test.rate {
			t.Errorf("%s: rate %v, want %v", name, got, test.rate)
		}
		if got := test.unit.cpu(busy, c); got != test.cpu {
			t.Errorf("%s: %v ns of CPU for each, want %v", name, got, test.cpu)
		}
	}
}

// TestSampled: of two machines the CPU time is both's, and what moves nothing is an error that tells what was sent.
func TestSampled(t *testing.T) {
	l, err := LoadsNamed([]string{"udp_rr"})
	if err != nil {
		t.Fatal(err)
	}
	client := traffic.Count{Ops: 100, Bytes: 100, At: time.Second, Busy: 300, Boot: "a"}
	server := traffic.Count{Ops: 99, Bytes: 99, At: time.Second, Busy: 500, Boot: "a"}
	for _, test := range []struct {
		boot string
		want sample
	}{{"a", sample{100, 3}}, {"b", sample{100, 8}}} {
		server.Boot = test.boot
		if got, _, err := sampled(l[0], client, server); got != test.want || err != nil {
			t.Errorf("on machine %s: %v, error %v, want %v", test.boot, got, err, test.want)
		}
	}
	lost := traffic.Count{Nudge: 20, At: 2 * time.Second}
	if _, _, err := sampled(l[0], lost, traffic.Count{}); err == nil || !strings.Contains(err.Error(), "nothing arrived in 2s, though 20 packets or requests were sent") {
		t.Errorf("error %v of a load whose requests are lost", err)
	}
}

func TestResults(t *testing.T) {
	loads, err := LoadsNamed([]string{"udp_64", "tcp_rr"})
	if err != nil {
		t.Fatal(err)
	}
	s := samples{
		{"host", "udp_64"}:          {{800, 10}, {900, 12}, {700, 11}},
		{"netlink-vxlan", "udp_64"}: {{400, 20}},
		{"ebpf-vxlan", "udp_64"}:    {{800, 14}, {400, 18}},
		{"ebpf-vxlan", "tcp_rr"}:    {{5, 1}},
	}
	want := []Result{
		{"ebpf-vxlan", "tcp_rr", 5, 5, 5, "1/s", 1},
		{"host", "udp_64", 800, 700, 900, "1/s", 11},
		{"netlink-vxlan", "udp_64", 400, 400, 400, "1/s", 20},
		{"ebpf-vxlan", "udp_64", 600, 400, 800, "1/s", 16},
	}
	got := s.results([]string{"host", "netlink-vxlan", "ebpf-vxlan"}, loads)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("results (-want +got):\n%s", d)
	}
	// Neither host against itself, nor tcp_rr, where there is nothing to compare with.
	wantTax := []Tax{{"netlink-vxlan", "udp_64", 1}, {"ebpf-vxlan", "udp_64", (1./600 - 1./800) / (1./400 - 1./800)}}
	if d := cmp.Diff(wantTax, taxes(got), cmpopts.EquateApprox(0, 1e-9)); d != "" {
		t.Errorf("taxes (-want +got):\n%s", d)
	}
}
