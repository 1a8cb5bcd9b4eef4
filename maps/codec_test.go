// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/bpf"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestAddr(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"192.168.32.245", "00000000000000000000ffffc0a820f5"},
		{"0.0.0.0", "00000000000000000000ffff00000000"},
		{"2001:db8:42:1::2", "20010db8004200010000000000000002"},
		{"", "00000000000000000000000000000000"},
	} {
		t.Run(tt.addr, func(t *testing.T) {
			var a netip.Addr
			if tt.addr != "" {
				a = netip.MustParseAddr(tt.addr)
			}
			w := Addr(a)
			if got := hex.EncodeToString(wireBytes(w)); got != tt.want {
				t.Errorf("Addr(%s) = %s, want %s", a, got, tt.want)
			}
			if back := NetipAddr(w); back != a {
				t.Errorf("NetipAddr(Addr(%s)) = %s", a, back)
			}
		})
	}
}

func TestRouteKey(t *testing.T) {
	for _, tt := range []struct {
		network uint32
		prefix  string
		want    string // prefix_len as this machine has it, then big endian
	}{
		{0, "172.246.0.0/24", "98000000" + "00000000" + "00000000000000000000ffffacf60000"},
		{0x01020304, "172.246.0.2/32", "a0000000" + "01020304" + "00000000000000000000ffffacf60002"},
		{0, "0.0.0.0/0", "80000000" + "00000000" + "00000000000000000000ffff00000000"},
		{7, "2001:db8::/64", "60000000" + "00000007" + "20010db8000000000000000000000000"},
		{7, "::/0", "20000000" + "00000007" + "00000000000000000000000000000000"},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			key := RouteKey{tt.network, netip.MustParsePrefix(tt.prefix)}
			w, err := encodeRouteKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(wireBytes(w)); got != tt.want {
				t.Errorf("encodeRouteKey(%s) = %s, want %s", key, got, tt.want)
			}
			back, err := decodeRouteKey(w)
			if err != nil || back != key {
				t.Errorf("decodeRouteKey = %s, %v, want %s", back, err, key)
			}
		})
	}
}

func TestRouteKeyRefused(t *testing.T) {
	for name, p := range map[string]netip.Prefix{
		"none":      {},
		"host bits": netip.MustParsePrefix("10.0.0.1/24"),
		"mapped":    netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 120),
	} {
		if _, err := encodeRouteKey(RouteKey{0, p}); err == nil {
			t.Errorf("%s: encodeRouteKey(%s) gave no error", name, p)
		}
	}
}

func TestRouteKeyBad(t *testing.T) {
	mapped := Addr(netip.MustParseAddr("10.0.0.0"))
	for _, tt := range []struct {
		len  uint32
		addr bpf.DatapathAddr
		want string
	}{
		{7, mapped, "prefix_len 7, not 32 to 160"},
		{161, mapped, "prefix_len 161, not 32 to 160"},
		{32 + 95, mapped, "prefix_len 127, which covers more than IPv4"},
	} {
		_, err := decodeRouteKey(bpf.DatapathRouteKey{PrefixLen: tt.len, Addr: tt.addr})
		if err == nil || err.Error() != tt.want {
			t.Errorf("decodeRouteKey(prefix_len %d) = %v, want %q", tt.len, err, tt.want)
		}
	}
}

// FuzzRouteKey holds that whatever decodes is the same key to the trie when encoded again.
func FuzzRouteKey(f *testing.F) {
	f.Add(uint32(152), uint32(0), uint32(0), uint32(0), uint32(0xffff0000), uint32(0x0000f6ac))
	f.Add(uint32(96), uint32(7), uint32(0xb80d0120), uint32(0), uint32(0), uint32(1))
	f.Add(uint32(7), uint32(0), uint32(0), uint32(0), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, length, network, a, b, c, d uint32) {
		w := bpf.DatapathRouteKey{PrefixLen: length, Network: network,
			Addr: bpf.DatapathAddr{Word: [4]uint32{a, b, c, d}}}
		key, err := decodeRouteKey(w)
		if err != nil {
			return
		}
		again, err := encodeRouteKey(key)
		if err != nil {
			t.Fatalf("%+v decodes to %s, which does not encode: %v", w, key, err)
		}
		if again.PrefixLen != w.PrefixLen || again.Network != w.Network {
			t.Fatalf("%+v became %+v by way of %s", w, again, key)
		}
		have, want := wireBytes(again.Addr), wireBytes(w.Addr)
		for i := range int(length) - networkBits {
			if mask := byte(0x80 >> (i % 8)); (have[i/8]^want[i/8])&mask != 0 {
				t.Fatalf("%+v became %+v by way of %s: bit %d differs", w, again, key, i)
			}
		}
	})
}

func TestHost(t *testing.T) {
	h := Host{
		Node:      netip.MustParseAddr("192.168.32.246"),
		NextHop:   netip.MustParseAddr("192.168.32.1"),
		Ifindex:   2,
		MTU:       1450,
		Encap:     bpf.DatapathEncapENCAP_VXLAN,
		Flags:     bpf.DatapathHostFlagsHOST_SOURCE_PORT,
		Adjust:    0x0102030405060708,
		HeaderLen: 50,
	}
	for i := range h.HeaderLen {
		h.Header[i] = i
	}
	w, err := encodeHost(h)
	if err != nil {
		t.Fatal(err)
	}
	want := "00000000000000000000ffffc0a820f6" + "00000000000000000000ffffc0a82001" + "02000000" + "aa05" + "01" + "01" +
		"0807060504030201" + "32" + "00000000000000" + hex.EncodeToString(h.Header[:])
	if got := hex.EncodeToString(wireBytes(w)); got != want {
		t.Errorf("encodeHost\n got %s\nwant %s", got, want)
	}
	if back, err := decodeHost(w); err != nil || back != h {
		t.Errorf("decodeHost = %+v, %v, want %+v", back, err, h)
	}
}

func TestHostRefused(t *testing.T) {
	node, node6 := netip.MustParseAddr("192.168.32.246"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name string
		host Host
		want string
	}{
		{"no node", Host{MTU: 1}, "no node address"},
		{"unknown encapsulation", Host{Node: node, Encap: 9, HeaderLen: 20}, "encapsulation 9, which is none we know"},
		{"header without encapsulation", Host{Node: node, HeaderLen: 20}, "header of 20 bytes for encapsulation 0 over IPv4, want 0"},
		{"encapsulation without header", Host{Node: node, Encap: 2}, "header of 0 bytes for encapsulation 2 over IPv4, want 20"},
		{"long header", Host{Node: node, Encap: 1, HeaderLen: 70}, "header of 70 bytes for encapsulation 1 over IPv4, want 50"},
		{"short header", Host{Node: node6, Encap: 1, Flags: bpf.DatapathHostFlagsHOST_IPV6, HeaderLen: 50}, "header of 50 bytes for encapsulation 1 over IPv6, want 70"},
		{"udp over IPv6", Host{Node: node6, Encap: 3, Flags: bpf.DatapathHostFlagsHOST_IPV6, HeaderLen: 48}, "encapsulation udp over IPv6, which there is not"},
	} {
		if _, err := encodeHost(tt.host); err == nil || err.Error() != tt.want {
			t.Errorf("%s: encodeHost: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestFDBKey(t *testing.T) {
	key := FDBKey{VNI: 0x00abcdef, MAC: MAC{0xc6, 1, 2, 3, 4, 5}}
	w, err := encodeFDBKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(wireBytes(w)), "efcdab00"+"c60102030405"+"0000"; got != want {
		t.Errorf("encodeFDBKey = %s, want %s", got, want)
	}
	if back, err := decodeFDBKey(w); err != nil || back != key {
		t.Errorf("decodeFDBKey = %v, %v", back, err)
	}
	w.Pad[1] = 1
	if _, err := decodeFDBKey(w); err == nil {
		t.Error("a key with padding decoded")
	}
	if _, err := encodeFDBKey(FDBKey{VNI: 1 << 24}); err == nil {
		t.Error("a VNI of 25 bits was encoded")
	}
}

func TestAddrKeyRefused(t *testing.T) {
	for _, a := range []netip.Addr{{}, netip.IPv6Unspecified(), netip.MustParseAddr("::ffff:10.0.0.1")} {
		if _, err := encodeAddrKey(AddrKey{0, a}); err == nil {
			t.Errorf("encodeAddrKey(%s) gave no error", a)
		}
	}
	if _, err := decodeAddrKey(bpf.DatapathIpKey{}); err == nil {
		t.Error("a key without address decoded")
	}
}

func TestSettings(t *testing.T) {
	w := bpf.DatapathSettings{
		Network: 7, Ipip: 1, Vni: 5,
		VxlanPort: 0x1821, // 8472 in network byte order
		UdpPort:   0x5d20, // 8285
		Ipv4: bpf.DatapathFamily{
			Node: Addr(netip.MustParseAddr("192.168.32.245")), OverlayIfindex: 3,
			IndexBase: [2]uint64{0, 0xacf40000}, IndexShift: 8, IndexCount: 1024,
		},
		Ipv6: bpf.DatapathFamily{
			Node: Addr(netip.MustParseAddr("2001:db8:32::245")), OverlayIfindex: 4,
			IndexBase: [2]uint64{0xfd00_0042_0000_0000, 0}, IndexShift: 64, IndexFirst: 1024, IndexCount: 65536,
		},
	}
	w.Ipv4.OverlayMac.Byte, w.Ipv6.OverlayMac.Byte = MAC{0xc6, 0, 0, 0, 0, 1}, MAC{0xc6, 0, 0, 0, 0, 2}
	want := &Settings{
		Network: 7, VXLANPort: 8472, UDPPort: 8285, IPIP: true, VNI: 5,
		IPv4: Family{
			Node: netip.MustParseAddr("192.168.32.245"), OverlayIfindex: 3, OverlayMAC: MAC{0xc6, 0, 0, 0, 0, 1},
			Index: Window{Base: netip.MustParseAddr("172.244.0.0"), Bits: 24, Count: 1024},
		},
		IPv6: Family{
			Node: netip.MustParseAddr("2001:db8:32::245"), OverlayIfindex: 4, OverlayMAC: MAC{0xc6, 0, 0, 0, 0, 2},
			Index: Window{Base: netip.MustParseAddr("fd00:42::"), Bits: 64, First: 1024, Count: 65536},
		},
	}
	if diff := cmp.Diff(want, decodeSettings(w), compareAddrs); diff != "" {
		t.Error(diff)
	}
}

// TestNames holds that every enumerator has a name, and some have the one that users were told of.
func TestNames(t *testing.T) {
	names, err := loadNames()
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[bpf.DatapathProgram]string{
		bpf.DatapathProgramPROGRAM_FROM_CONTAINER: bpf.FromContainer,
		bpf.DatapathProgramPROGRAM_FROM_NETWORK:   bpf.FromNetwork,
		bpf.DatapathProgramPROGRAM_FROM_HOST:      bpf.FromHost,
		200:                                       "200",
	} {
		if got := names.program(p); got != want {
			t.Errorf("program(%d) = %q, want %q", p, got, want)
		}
	}
	for r, want := range map[bpf.DatapathReason][2]string{
		bpf.DatapathReasonFORWARD_ENCAPSULATED: {"forward", "encapsulated"},
		bpf.DatapathReasonPASS_NOT_OURS:        {"pass", "not_ours"},
		bpf.DatapathReasonDROP_UNKNOWN_HOST:    {"drop", "unknown_host"},
		63:                                     {"unknown", "63"},
	} {
		if verdict, reason := names.reason(r); [2]string{verdict, reason} != want {
			t.Errorf("reason(%d) = %q, %q, want %q", r, verdict, reason, want)
		}
	}
	for value, name := range names.reasons {
		verdict, _ := names.reason(bpf.DatapathReason(value))
		if !strings.Contains("forward pass drop reason", verdict) { // reason: of REASON_MAX
			t.Errorf("%s: no verdict %q", name, verdict)
		}
	}
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name            string
		desired, actual map[string]int
		puts            map[string]int
		deletes         []string
	}{
		{"equal", map[string]int{"a": 1}, map[string]int{"a": 1}, map[string]int{}, nil},
		{"missing", map[string]int{"a": 1}, nil, map[string]int{"a": 1}, nil},
		{"zero value is not missing", map[string]int{"a": 0}, nil, map[string]int{"a": 0}, nil},
		{"changed", map[string]int{"a": 1}, map[string]int{"a": 2}, map[string]int{"a": 1}, nil},
		{"stale", nil, map[string]int{"a": 2}, map[string]int{}, []string{"a"}},
	} {
		puts, deletes := Diff(tt.desired, tt.actual)
		if diff := cmp.Diff(tt.puts, puts); diff != "" {
			t.Errorf("%s: puts: %s", tt.name, diff)
		}
		if diff := cmp.Diff(tt.deletes, deletes); diff != "" {
			t.Errorf("%s: deletes: %s", tt.name, diff)
		}
	}
}

// TestSlots compares the index's arithmetic with prefixes that contain addresses.
func TestSlots(t *testing.T) {
	x := routeIndex{network: 7, windows: []Window{{Base: netip.MustParseAddr("172.244.0.0"), Bits: 24, Count: 1024}}}
	network := netip.MustParsePrefix("172.244.0.0/14")
	for range 10_000 {
		a := netip.AddrFrom4([4]byte{172, byte(240 + rand.IntN(12)), byte(rand.Uint32()), byte(rand.Uint32())})
		slot, ok := x.slotOf(a)
		if ok != network.Contains(a) {
			t.Fatalf("slotOf(%s) = %d, %t", a, slot, ok)
		}
		if key := x.key(slot); ok && (!key.Prefix.Contains(a) || key.Prefix.Bits() != 24 || key.Network != 7) {
			t.Fatalf("%s falls into slot %d, which stands for %s", a, slot, key)
		}
	}
	for key, want := range map[RouteKey]bool{
		{7, netip.MustParsePrefix("172.246.0.0/24")}:   true,
		{7, netip.MustParsePrefix("172.246.0.128/25")}: true,
		{7, netip.MustParsePrefix("172.246.0.0/23")}:   false,
		{8, netip.MustParsePrefix("172.246.0.0/24")}:   false,
		{7, netip.MustParsePrefix("172.248.0.0/24")}:   false,
		{7, netip.MustParsePrefix("2001:db8::/64")}:    false,
	} {
		if _, ok := x.slotFor(key); ok != want {
			t.Errorf("slotFor(%s) = %t, want %t", key, ok, want)
		}
	}
}
