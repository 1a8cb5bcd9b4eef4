// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/test/lab"
)

const snmp = `Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos
Ip: 1 64 900 0 0 817 0
Icmp: InMsgs InErrors
Icmp: 3 0
`

func TestParseForwarded(t *testing.T) {
	if n, err := parseForwarded([]byte(snmp)); n != 817 || err != nil {
		t.Errorf("parseForwarded gives %d and error %v, want 817", n, err)
	}
	for _, bad := range []string{"", "Ip: ForwDatagrams\n", "Ip: Forwarding\nIp: 1\n", "Ip: A ForwDatagrams\nIp: 1\n", "Ip: ForwDatagrams\nIp: -1\n"} {
		if n, err := parseForwarded([]byte(bad)); err == nil {
			t.Errorf("parseForwarded(%q) gives %d, want an error", bad, n)
		}
	}
}

func FuzzParseForwarded(f *testing.F) {
	f.Add([]byte(snmp))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseForwarded(b); err != nil && n != 0 {
			t.Errorf("%d beside error %v", n, err)
		}
	})
}

// TestNames: the names that scripts go by.
func TestNames(t *testing.T) {
	var modeNames, loadNames []string
	for _, m := range Modes() {
		modeNames = append(modeNames, m.Name)
	}
	for _, l := range Loads() {
		loadNames = append(loadNames, l.Name)
	}
	wantModes := strings.Fields("host routing redirect netlink-vxlan netlink-ipip netlink-udp netlink-host-gw ebpf-vxlan ebpf-ipip ebpf-vxlan-xdp ebpf-ipip-xdp ebpf-udp ebpf-host-gw")
	wantLoads := strings.Fields("tcp_stream tcp_stream_1core tcp_stream_8 tcp_stream_notso tcp_stream_notso_gro tcp_rr tcp_crr udp_rr udp_rr_32 udp_64 udp_1400")
	if !slices.Equal(modeNames, wantModes) {
		t.Errorf("modes are %v, want %v", modeNames, wantModes)
	}
	if !slices.Equal(loadNames, wantLoads) {
		t.Errorf("loads are %v, want %v", loadNames, wantLoads)
	}
}

func TestNamed(t *testing.T) {
	all, err := LoadsNamed(nil)
	if err != nil || len(all) != len(Loads()) {
		t.Errorf("no name stands for %d loads, error %v, want all %d", len(all), err, len(Loads()))
	}
	two, err := ModesNamed([]string{"ebpf-vxlan", "host", "host"})
	if err != nil || len(two) != 2 || two[0].Name != "host" || two[1].Name != "ebpf-vxlan" {
		t.Errorf("modes %v, error %v, want host and ebpf-vxlan", two, err)
	}
	if _, err := ModesNamed([]string{"host", "geneve"}); err == nil || !strings.Contains(err.Error(), `unknown mode "geneve": use some of host, routing,`) {
		t.Errorf("error %v of a mode there is not", err)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Rounds: 1, Duration: time.Second}, ""},
		{Options{Rounds: 0, Duration: time.Second}, "0 rounds: at least 1 is needed"},
		{Options{Rounds: 1}, "a duration of 0s: use 10ms to 1h"},
		{Options{Rounds: 1, Duration: 2 * time.Hour}, "a duration of 2h0m0s: use 10ms to 1h"},
	} {
		err := test.o.Validate()
		if got := errorText(err); got != test.want {
			t.Errorf("%+v: error %q, want %q", test.o, got, test.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestBypass: a program that leaves packets to the kernel is found out, and the kernel's modes may forward.
func TestBypass(t *testing.T) {
	s := site{lab: &lab.Lab{Hosts: []*lab.Host{{Name: "h1"}, {Name: "h2"}}}}
	before := []tally{{10, 10}, {10, 10}}
	for _, test := range []struct {
		dataplane string
		after     []tally
		want      string
	}{
		{dataplaneEBPF, []tally{{1010, 20}, {1010, 10}}, ""},
		{dataplaneEBPF, []tally{{1010, 10}, {1010, 21}}, "on h2 the kernel forwarded 11 packets beside the programs' 1000"},
		{dataplaneEBPF, []tally{{10, 11}, {1010, 10}}, "on h1 the kernel forwarded 1 packets"},
		{dataplaneNetlink, []tally{{1010, 1010}, {1010, 1010}}, ""},
	} {
		s.mode.dataplane = test.dataplane
		err := s.verifyBypass(before, test.after)
		if got := errorText(err); !strings.Contains(got, test.want) || (err == nil) != (test.want == "") {
			t.Errorf("%s, %v: error %q, want one that says %q", test.dataplane, test.after, got, test.want)
		}
	}
}
