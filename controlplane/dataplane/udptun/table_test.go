// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"bytes"
	"net/netip"
	"testing"
)

var (
	local = netip.MustParsePrefix("172.246.0.0/24")
	nodeA = netip.MustParseAddr("192.168.32.245")
	nodeC = netip.MustParseAddr("192.168.32.247")
)

func testTable() *table {
	return newTable(local, []Peer{
		{netip.MustParsePrefix("172.245.0.0/24"), nodeA},
		{netip.MustParsePrefix("172.247.0.0/16"), nodeA},
		{netip.MustParsePrefix("172.247.3.0/24"), nodeC},
	})
}

func with(b []byte, off int, value byte) []byte {
	b[off] = value
	return seal(b)
}

func TestOutbound(t *testing.T) {
	tests := map[string]struct {
		packet []byte
		node   netip.Addr
		reason Reason
	}{
		"to a peer":          {ipv4("172.246.0.2", "172.245.0.2", 17, nil), nodeA, none},
		"by the wide prefix": {ipv4("172.246.0.2", "172.247.4.2", 17, nil), nodeA, none},
		"by the long prefix": {ipv4("172.246.0.2", "172.247.3.255", 17, nil), nodeC, none},
		"to nobody":          {ipv4("172.246.0.2", "172.248.0.2", 17, nil), netip.Addr{}, NoRoute},
		"expired":            {with(ipv4("172.246.0.2", "172.245.0.2", 17, nil), offTTL, 1), netip.Addr{}, TTL},
		"IPv6":               {[]byte{0x60, 0, 0, 0}, netip.Addr{}, Protocol},
		"empty":              {nil, netip.Addr{}, Protocol},
		"cut":                {ipv4("172.246.0.2", "172.245.0.2", 17, nil)[:19], netip.Addr{}, Malformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			node, reason := testTable().outbound(tt.packet)
			if node != tt.node || reason != tt.reason {
				t.Errorf("%v, %q, want %v, %q", node, reason, tt.node, tt.reason)
			}
			if reason == none && tt.packet[offTTL] != 63 {
				t.Errorf("TTL %d, want 63", tt.packet[offTTL])
			}
		})
	}
}

func TestInbound(t *testing.T) {
	stranger := netip.MustParseAddr("192.168.32.250")
	tests := map[string]struct {
		packet []byte
		from   netip.Addr
		tos    byte
		want   Reason
	}{
		"from a peer":                   {ipv4("172.245.0.2", "172.246.0.2", 17, nil), nodeA, 0, none},
		"from a peer's own address":     {ipv4("192.168.32.245", "172.246.0.2", 17, nil), nodeA, 0, none},
		"from another's own address":    {ipv4("192.168.32.247", "172.246.0.2", 17, nil), nodeA, 0, SpoofedSource},
		"from another's subnet":         {ipv4("172.247.3.2", "172.246.0.2", 17, nil), nodeA, 0, SpoofedSource},
		"from our subnet":               {ipv4("172.246.0.3", "172.246.0.2", 17, nil), nodeA, 0, SpoofedSource},
		"from outside":                  {ipv4("8.8.8.8", "172.246.0.2", 17, nil), nodeA, 0, SpoofedSource},
		"from a stranger":               {ipv4("172.245.0.2", "172.246.0.2", 17, nil), stranger, 0, UnknownHost},
		"from a stranger's own address": {ipv4("192.168.32.250", "172.246.0.2", 17, nil), stranger, 0, UnknownHost},
		"to another subnet":             {ipv4("172.245.0.2", "172.247.0.2", 17, nil), nodeA, 0, NotLocal},
		"to outside":                    {ipv4("172.245.0.2", "192.168.32.246", 17, nil), nodeA, 0, NotLocal},
		"expired":                       {with(ipv4("172.245.0.2", "172.246.0.2", 17, nil), offTTL, 1), nodeA, 0, TTL},
		"congested, without ECN":        {ipv4("172.245.0.2", "172.246.0.2", 17, nil), nodeA, ecnCE, ECN},
		"congested":                     {with(ipv4("172.245.0.2", "172.246.0.2", 17, nil), offTOS, ecnECT0), nodeA, ecnCE, none},
		"IPv6":                          {[]byte{0x60, 0, 0, 0}, nodeA, 0, Malformed},
		"empty":                         {nil, nodeA, 0, Malformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := testTable().inbound(tt.packet, tt.from, tt.tos); got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
			if tt.want == none && tt.packet[offTTL] != 63 {
				t.Errorf("TTL %d, want 63", tt.packet[offTTL])
			}
		})
	}
}

// Whatever is let in is one whole packet with a right checksum, of the node it
// came from, for us, one hop further; whatever is not is left as it was, but for
// its ECN field.
func FuzzInbound(f *testing.F) {
	f.Add(ipv4("172.245.0.2", "172.246.0.2", 17, make([]byte, 12)), byte(0))
	f.Add(with(ipv4("172.245.0.2", "172.246.0.2", 1, nil), offTOS, ecnECT0), byte(ecnCE))
	f.Add(with(ipv4("192.168.32.245", "172.246.0.2", 17, make([]byte, 40)), 0, 0x4f), byte(0))
	f.Add([]byte{0x45}, byte(0))
	table := testTable()
	f.Fuzz(func(t *testing.T, b []byte, tos byte) {
		before := bytes.Clone(b)
		if table.inbound(b, nodeA, tos) != none {
			if len(b) > 0 && answerableIfWhole(b) {
				_ = icmpError(b, icmpTimeExceeded)
			}
			return
		}
		p := packet(b)
		if !wellFormed(b) || !wellFormed(before) || len(b) != len(before) {
			t.Fatalf("let in %x", before)
		}
		if p[offTTL] != before[offTTL]-1 || !bytes.Equal(b[offSource:], before[offSource:]) {
			t.Fatalf("%x became %x", before, b)
		}
		node, _ := table.routes.Lookup(p.source())
		if node != nodeA && p.source() != nodeA || !local.Contains(p.destination()) {
			t.Fatalf("let in %x", before)
		}
	})
}

func answerableIfWhole(b []byte) bool { return wellFormed(b) && answerable(b) }

func FuzzOutbound(f *testing.F) {
	f.Add(ipv4("172.246.0.2", "172.245.0.2", 17, make([]byte, 12)))
	f.Add(ipv4("172.246.0.2", "172.248.0.2", 1, []byte{8, 0}))
	table := testTable()
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = describe(b)
		node, reason := table.outbound(b)
		if reason == none && (!node.IsValid() || !wellFormed(b)) {
			t.Fatalf("%x goes to %v", b, node)
		}
		if _, answered := answers[reason]; answered && answerable(b) && !wellFormed(icmpFilledIn(b)) {
			t.Fatalf("the answer to %x is no packet", b)
		}
	})
}
