// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

// golden compares output with testdata/NAME.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (go test -update writes it): %s", path, diff)
	}
}

var (
	self  = netip.MustParseAddr("192.168.32.245")
	peer  = netip.MustParseAddr("192.168.32.246")
	peer2 = netip.MustParseAddr("192.168.32.247")
)

// outer is an IPv4 header as struct host has it.
func outer(ttl, protocol byte, df bool) []byte {
	h := make([]byte, 20, 50)
	h[0], h[8], h[9] = 0x45, ttl, protocol
	if df {
		h[6] = 0x40
	}
	copy(h[12:], self.AsSlice())
	copy(h[16:], peer.AsSlice())
	return h
}

func vxlanHost() maps.Host {
	h := outer(64, unix.IPPROTO_UDP, false)
	h = append(h, 0, 0, 0x21, 0x18, 0, 0, 0, 0)    // to 8472
	h = append(h, 8, 0, 0, 0, 0xff, 0xff, 0xff, 0) // the largest VNI
	h = append(h, 0x0e, 0, 0, 0, 0, 2, 0x0e, 0, 0, 0, 0, 1, 8, 0)
	return hostWith(bpf.DatapathEncapENCAP_VXLAN, bpf.DatapathHostFlagsHOST_SOURCE_PORT,
		unix.BPF_F_ADJ_ROOM_FIXED_GSO|unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4|unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP|
			unix.BPF_F_ADJ_ROOM_ENCAP_L2_ETH|14<<56, h)
}

// vxlanTemplate is vxlanHost without what is its own.
func vxlanTemplate() maps.Host {
	h := vxlanHost()
	h.Node, h.NextHop = netip.Addr{}, netip.Addr{}
	clear(h.Header[16:20])
	clear(h.Header[36:42])
	return h
}

func ipipHost() maps.Host {
	return hostWith(bpf.DatapathEncapENCAP_IPIP,
		bpf.DatapathHostFlagsHOST_INHERIT_TTL|bpf.DatapathHostFlagsHOST_INHERIT_DF,
		unix.BPF_F_ADJ_ROOM_FIXED_GSO|unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, outer(0, unix.IPPROTO_IPIP, false))
}

func udpHost() maps.Host {
	h := append(outer(64, unix.IPPROTO_UDP, true), 0x20, 0x5d, 0x20, 0x5d, 0, 0, 0, 0)
	return hostWith(bpf.DatapathEncapENCAP_UDP, 0, 1<<20, h)
}

func hostWith(encap bpf.DatapathEncap, flags bpf.DatapathHostFlags, adjust uint64, header []byte) maps.Host {
	h := maps.Host{Node: peer, NextHop: peer, Ifindex: 2, MTU: 1450, Encap: encap, Flags: flags, Adjust: adjust}
	h.HeaderLen = uint8(copy(h.Header[:], header))
	return h
}

func routedHost() maps.Host {
	return maps.Host{Node: peer2, NextHop: netip.MustParseAddr("192.168.32.1"), Ifindex: 2, MTU: 1500}
}

func badEntry() *maps.BadEntry {
	key := make([]byte, 24)
	key[0] = 7
	return &maps.BadEntry{Reason: errors.New("prefix_len 7, not 32 to 160"), Key: key, Value: []byte{9, 0, 0, 0}}
}

// sample is a table made of entries, as Read would make it.
func sample(t *testing.T, name string, records []record, err error) Table {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if s.name == name {
			return Table{Name: s.name, Title: s.title, columns: s.columns, records: records}
		}
	}
	t.Fatalf("no table %s", name)
	return Table{}
}

// hostEntries are one of each encapsulation, two damaged, and this node.
func hostEntries() []maps.Entry[uint32, maps.Host] {
	torn := vxlanHost()
	torn.Header[0] = 0
	return []maps.Entry[uint32, maps.Host]{
		{Key: 1, Value: maps.Host{Node: self, NextHop: self, Ifindex: 2}},
		{Key: 2, Value: vxlanHost()},
		{Key: 3, Value: ipipHost()},
		{Key: 4, Value: udpHost()},
		{Key: 5, Value: routedHost()},
		{Key: 6, Value: torn},
		{Bad: &maps.BadEntry{Reason: errors.New("header of 99 bytes, more than 72"),
			Key: []byte{7, 0, 0, 0}, Value: bytes.Repeat([]byte{0xab}, 128)}},
	}
}

func eventEntries() []maps.Entry[int, maps.Event] {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	from, to := netip.MustParseAddr("172.246.0.2"), netip.MustParseAddr("172.245.0.2")
	return []maps.Entry[int, maps.Event]{
		{Key: 0, Value: maps.Event{Time: at, Program: "from_container", Verdict: "drop", Reason: "container_source",
			Count: 1, Ifindex: 9, Len: 98, Src: from, Dst: to}},
		{Key: 1, Value: maps.Event{Time: at, Program: "from_network", Verdict: "drop", Reason: "inner_malformed",
			Count: 65536, Ifindex: 2, Len: 64, OuterSrc: peer}},
		{Key: 2, Value: maps.Event{Time: at.Add(time.Second), Program: "from_network", Verdict: "drop",
			Reason: "unknown_host", Count: 1 << 40, Ifindex: 2, Len: 65226, Src: from, Dst: to, OuterSrc: peer}},
	}
}

// samples are a table of each kind.
func samples(t *testing.T) []Table {
	hosts := func(index uint32) hostRef {
		return map[uint32]hostRef{1: {1, self, true}, 2: {2, peer, false}}[index]
	}
	mac, gateway := maps.MAC{0xc6, 1, 2, 3, 4, 5}, maps.MAC{0xc6, 1, 2, 3, 4, 6}
	prefix, a := netip.MustParsePrefix, netip.MustParseAddr
	routes, err := recordsOf([]maps.Entry[maps.RouteKey, uint32]{
		{Key: maps.RouteKey{Network: 0, Prefix: prefix("172.245.0.0/24")}, Value: 1},
		{Key: maps.RouteKey{Network: 0, Prefix: prefix("172.246.0.0/24")}, Value: 2},
		{Key: maps.RouteKey{Network: 7, Prefix: prefix("2001:db8:42:1::/64")}, Value: 1000},
		{Bad: badEntry()},
	}, nil, func(k maps.RouteKey, index uint32) route {
		ref := hosts(index)
		ref.Host = index
		return route{k.Network, k.Prefix, ref}
	})
	tables := []Table{sample(t, "routes", routes, err)}
	records, err := recordsOf(hostEntries(), nil, newHost)
	tables = append(tables, sample(t, "hosts", records, err),
		sample(t, "route_index", []record{
			slot{0, prefix("172.245.0.0/24"), 1, netip.Addr{}, "", 0},
			slot{0, prefix("172.246.0.0/24"), 2, peer, macString(mac), 1},
		}, nil),
		sample(t, "templates", []record{
			template{1, newPath(vxlanTemplate())},
			template{2, newPath(routedHost())},
		}, nil))
	records, err = recordsOf(eventEntries(), nil, func(_ int, e maps.Event) event { return event(e) })
	return append(tables, sample(t, "events", records, err),
		sample(t, "nodes", []record{node{peer, 2}}, nil),
		sample(t, "neigh", []record{neighbour{0, a("172.246.0.0"), macString(mac)}}, nil),
		sample(t, "fdb", []record{fdbEntry{1, macString(mac), hosts(2)}}, nil),
		sample(t, "endpoints", []record{endpoint{0, a("172.245.0.2"), 9, macString(mac), macString(gateway)}}, nil),
		sample(t, "endpoint_index", []record{endpointSlot{2, a("172.245.0.2"), 9, macString(mac), macString(gateway)}}, nil),
		sample(t, "counters", []record{
			count{"from_network", "forward", "delivered", 1000, 98000},
			count{"from_network", "drop", "unknown_host", 3, 294},
		}, nil),
		sample(t, "settings", []record{newSettings(maps.Settings{
			VXLANPort: 8472, VNI: 1,
			IPv4: maps.Family{
				Node: self, OverlayIfindex: 3, OverlayMAC: mac,
				Index: maps.Window{Base: a("172.244.0.0"), Bits: 24, Count: 1024},
			},
		})}, nil),
	)
}

func TestGolden(t *testing.T) {
	for _, format := range Formats {
		var out bytes.Buffer
		if err := WriteAll(&out, format, samples(t)); err != nil {
			t.Fatal(err)
		}
		golden(t, "all."+format, out.Bytes())
		if format != "table" {
			continue
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > width+1 {
				t.Errorf("a line of %d columns: %s", len(line)-1, line)
			}
		}
	}
}

// TestOne holds that one table is an array, and an empty one an empty array.
func TestOne(t *testing.T) {
	for _, tt := range []struct {
		format string
		table  Table
		want   string
	}{
		{"json", sample(t, "nodes", []record{node{peer, 2}}, nil),
			"[\n  {\n    \"node\": \"192.168.32.246\",\n    \"host\": 2\n  }\n]\n"},
		{"yaml", sample(t, "nodes", []record{node{peer, 2}}, nil), "- host: 2\n  node: 192.168.32.246\n"},
		{"table", sample(t, "nodes", []record{node{peer, 2}}, nil), "NODE            HOST\n192.168.32.246     2\n"},
		{"json", sample(t, "nodes", nil, nil), "[]\n"},
		{"yaml", sample(t, "nodes", nil, nil), "[]\n"},
		{"table", sample(t, "nodes", nil, nil), "(no entries)\n"},
	} {
		var out bytes.Buffer
		if err := Write(&out, tt.format, tt.table); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, out.String()); diff != "" {
			t.Errorf("%s: %s", tt.format, diff)
		}
	}
}

func TestUnknown(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{CheckName("route"), `unknown map "route": the maps are routes, route_index, hosts, templates, nodes, neigh, fdb, ` +
			`endpoints, endpoint_index, nat, counters, events, settings`},
		{CheckFormat("xml"), `unknown output format "xml": the formats are table, json, yaml`},
		{Write(&bytes.Buffer{}, "xml", Table{}), `unknown output format "xml": the formats are table, json, yaml`},
	} {
		if tt.err == nil || tt.err.Error() != tt.want {
			t.Errorf("%v, want %s", tt.err, tt.want)
		}
	}
}

// TestKeys holds that every key of the JSON is in snake case, or names an address family.
func TestKeys(t *testing.T) {
	var out bytes.Buffer
	if err := WriteAll(&out, "json", samples(t)); err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	walkKeys(all, func(key string) {
		if strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") != "" && key != "ipv4" && key != "ipv6" {
			t.Errorf("key %q", key)
		}
	})
}

func walkKeys(v any, visit func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			visit(key)
			walkKeys(value, visit)
		}
	case []any:
		for _, value := range v {
			walkKeys(value, visit)
		}
	}
}

// TestListNames holds that what a list shows can be dumped.
func TestListNames(t *testing.T) {
	var listed []string
	for _, s := range summaries {
		listed = append(listed, s.Name)
	}
	if diff := cmp.Diff(Names(), listed); diff != "" {
		t.Error(diff)
	}
}

func TestWrap(t *testing.T) {
	got := wrap("aa bb cc dddddddd e", 5)
	if diff := cmp.Diff([]string{"aa bb", "cc", "dddddddd", "e"}, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzHeader holds that no header, however damaged, ends the dump.
func FuzzHeader(f *testing.F) {
	for _, h := range []maps.Host{vxlanHost(), ipipHost(), udpHost(), {}} {
		f.Add(uint8(h.Encap), uint8(h.Flags), h.Adjust, h.Header[:h.HeaderLen])
	}
	f.Fuzz(func(t *testing.T, encap, flags uint8, adjust uint64, header []byte) {
		h := newHost(2, hostWith(bpf.DatapathEncap(encap), bpf.DatapathHostFlags(flags), adjust, header))
		for _, row := range h.rows() {
			if len(row) == 1 && row[0] == "" {
				t.Errorf("an empty line for % x", header)
			}
		}
	})
}
