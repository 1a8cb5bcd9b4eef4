// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/bench/control"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample has what a report can have: a mode that is absent, one that nothing is
// compared with, a tax below 0 and far above 1, and text that a page must not
// take for its own.
func sample() *bench.Report {
	return &bench.Report{
		Machine: bench.Machine{
			Time: time.Date(2026, 11, 21, 15, 15, 0, 0, time.UTC), Kernel: "6.18.44", Arch: "amd64", CPU: "A <CPU> & more", CPUs: 2,
			Cores: []int{0, 1}, Governor: "none", Mitigations: map[string]string{"spectre_v2": "Mitigation: Retpolines", "meltdown": "Not affected"},
			Sysctls: map[string]string{"net.core.bpf_jit_enable": "1"}, Offloads: map[string]bool{"rx-gro": false, "tx-tcp-segmentation": true},
			Background: 0.74, Steal: 0.001, Rounds: 5, Duration: 1,
		},
		Results: []bench.Result{
			{Mode: "host", Load: "udp_64", Median: 866000, Min: 860000, Max: 871000, Unit: "1/s", CPUNs: 1650.4},
			{Mode: "netlink-vxlan", Load: "udp_64", Median: 429000, Min: 401000, Max: 433000, Unit: "1/s", CPUNs: 3300},
			{Mode: "netlink-udp", Load: "udp_64", Median: 41600, Min: 27100, Max: 55200, Unit: "1/s", CPUNs: 148085},
			{Mode: "ebpf-vxlan", Load: "udp_64", Median: 900000, Min: 900000, Max: 900000, Unit: "1/s", CPUNs: 1600},
			{Mode: "overlay", Load: "tcp_stream", Median: 9.4e9, Min: 2.6e9, Max: 14.2e9, Unit: "bit/s", CPUNs: 101000},
		},
		Tax: []bench.Tax{
			{Mode: "netlink-vxlan", Load: "udp_64", Value: 1}, {Mode: "netlink-udp", Load: "udp_64", Value: 19.24}, {Mode: "ebpf-vxlan", Load: "udp_64", Value: -0.037},
		},
		Absent: []bench.Absent{
			{Mode: "netlink-ipip", Reason: "this kernel makes no ipip device: operation not supported"},
			{Load: "tcp_stream_notso", Reason: "between given hosts no offload of theirs is changed"},
		},
	}
}

// TestGolden holds the formats that people and scripts read.
func TestGolden(t *testing.T) {
	for file, write := range map[string]func(io.Writer, *bench.Report) error{
		"report.json": JSON, "report.table": Table, "report.html": HTML,
	} {
		var b bytes.Buffer
		if err := write(&b, sample()); err != nil {
			t.Fatal(err)
		}
		compareGolden(t, file, b.Bytes())
	}
}

// TestHTML: the page is well-formed XML, has a chart for each load and each tax,
// and asks nothing of the network.
func TestHTML(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, sample()); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
	// Two loads and one tax; of each a bar for each mode.
	if count["svg"] != 3 || count["rect"] != 5+3 || count["script"]+count["link"]+count["img"] != 0 {
		t.Errorf("elements are %v", count)
	}
	page := b.String()
	if remote := regexp.MustCompile(`https?:|url\(|@import`).FindString(page); remote != "" {
		t.Errorf("the page refers to something outside: %s", remote)
	}
	if !strings.Contains(page, "A &lt;CPU&gt; &amp; more") || !strings.Contains(page, "netlink-ipip") {
		t.Error("the page lacks the machine or what is absent")
	}
}

// TestTaxCharts: bars stay within the chart, however far off a tax is, and leave the others room.
func TestTaxCharts(t *testing.T) {
	far, near, less := 109.5, 0.5, -300.0
	s := section{Rows: []row{{Tax: &far}, {Tax: &near}, {Tax: &less}}}
	bars := taxCharts([]chartSection{{section: s}})[0].Bars.Bars
	for i, want := range []float64{axisWidth / 2, axisWidth / 8, axisWidth / 2} {
		if b := bars[i]; b.Width != want || b.X < labelWidth || b.X+b.Width > labelWidth+axisWidth {
			t.Errorf("the bar of %s is at %v and %v wide, want %v", b.Text, b.X, b.Width, want)
		}
	}
}

// TestWarnings: what speaks against the figures is said, and nothing else.
func TestWarnings(t *testing.T) {
	for _, test := range []struct {
		m    bench.Machine
		want string
	}{
		{bench.Machine{Cores: []int{0, 1}, Background: 0.04, Sysctls: map[string]string{"net.ipv4.tcp_congestion_control": "reno"}}, ""},
		{bench.Machine{Cores: []int{0, 1}, Peer: "h2:8286", Sysctls: map[string]string{"net.ipv4.tcp_congestion_control": "bbr"}}, "TCP paces itself"},
		{bench.Machine{Cores: []int{0, 1}, Sysctls: map[string]string{"net.ipv4.tcp_congestion_control": "bbr"}}, ""}, // of bench control
		{bench.Machine{Cores: []int{0}}, "share one CPU"},
		{bench.Machine{Cores: []int{0, 1}, Background: 0.06}, "was not quiet"},
		{bench.Machine{Cores: []int{0, 1}, Steal: 0.06}, "a hypervisor took 6 %"},
	} {
		got := strings.Join(warnings(test.m), "; ")
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%+v: warnings %q, want %q", test.m, got, test.want)
		}
	}
}

// TestEmpty: a report of nothing is written all the same.
func TestEmpty(t *testing.T) {
	for name, write := range map[string]func(io.Writer, *bench.Report) error{"JSON": JSON, "Table": Table, "HTML": HTML} {
		if err := write(io.Discard, &bench.Report{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReaderGone: what cannot be written is an error.
func TestReaderGone(t *testing.T) {
	r, w := io.Pipe()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(io.Writer, *bench.Report) error{"JSON": JSON, "Table": Table, "HTML": HTML} {
		if err := write(w, sample()); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: error %v, want that of the writer", name, err)
		}
	}
}

func TestQuantity(t *testing.T) {
	for _, test := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "1/s", "0.00 /s"}, {5.5, "1/s", "5.50 /s"}, {999.4, "1/s", "999 /s"}, {999.6, "1/s", "1.00 k/s"},
		{43_800, "1/s", "43.8 k/s"}, {866_000, "1/s", "866 k/s"}, {43.8e9, "bit/s", "43.8 Gbit/s"}, {1e15, "bit/s", "1000 Tbit/s"},
	} {
		if got := quantity(test.v, test.unit); got != test.want {
			t.Errorf("quantity(%v, %q) is %q, want %q", test.v, test.unit, got, test.want)
		}
	}
}

// TestControlGolden is TestGolden of the control plane's report.
func TestControlGolden(t *testing.T) {
	r := &control.Report{Machine: sample().Machine, Rate: 100, Changes: 1000, Results: []control.Result{{
		Nodes: 100_000, FirstSync: 9_876_543 * time.Microsecond, Restart: 3 * time.Second, P50: 1_234 * time.Microsecond, P99: 9 * time.Millisecond,
		Max: 12 * time.Millisecond, RSS: 400e6, PeakRSS: 512e6, Maps: 64e6, IdleCPU: 0.00123,
	}}}
	for file, write := range map[string]func(io.Writer, *control.Report) error{"control.json": ControlJSON, "control.table": ControlTable} {
		var b bytes.Buffer
		if err := write(&b, r); err != nil {
			t.Fatal(err)
		}
		compareGolden(t, file, b.Bytes())
	}
}

// compareGolden compares with a file of testdata.
func compareGolden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", file, d)
	}
}
