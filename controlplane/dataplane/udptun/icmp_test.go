// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// icmpFilledIn is the answer to p with what the kernel adds.
func icmpFilledIn(p packet) []byte {
	b := icmpError(p, icmpUnreachable)
	binary.BigEndian.PutUint16(b[offTotalLen:], uint16(len(b)))
	return seal(b)
}

func TestICMPError(t *testing.T) {
	for _, size := range []int{0, 8, 501, 520, 528, 529, 1400} {
		p := ipv4("172.246.0.2", "172.248.0.2", 17, bytes.Repeat([]byte{0xa5}, size))
		b := icmpFilledIn(p)
		if !wellFormed(b) || packet(b).destination() != packet(p).source() {
			t.Errorf("payload of %d: answer %x", size, b)
		}
		if len(b) != min(icmpMaxLen, headerLen+icmpHeaderLen+len(p)) {
			t.Errorf("payload of %d: answer of %d bytes", size, len(b))
		}
		icmp := packet(b).payload()
		if icmp[0] != icmpUnreachable || icmp[1] != 0 || checksum(icmp) != 0 {
			t.Errorf("payload of %d: type %d, code %d, checksum off by %#x", size, icmp[0], icmp[1], checksum(icmp))
		}
		if !bytes.HasPrefix(p, icmp[icmpHeaderLen:]) {
			t.Errorf("payload of %d: quotes %x", size, icmp[icmpHeaderLen:])
		}
	}
}

func TestAnswerable(t *testing.T) {
	const src, dst = "172.246.0.2", "172.248.0.2"
	tests := map[string]struct {
		packet []byte
		want   bool
	}{
		"UDP":                   {ipv4(src, dst, 17, nil), true},
		"echo":                  {ipv4(src, dst, 1, []byte{icmpEcho, 0}), true},
		"echo reply":            {ipv4(src, dst, 1, []byte{icmpEchoReply, 0}), true},
		"timestamp":             {ipv4(src, dst, 1, []byte{icmpTimestamp, 0}), true},
		"unreachable":           {ipv4(src, dst, 1, []byte{icmpUnreachable, 1}), false},
		"time exceeded":         {ipv4(src, dst, 1, []byte{icmpTimeExceeded, 0}), false},
		"unknown ICMP":          {ipv4(src, dst, 1, []byte{42}), false},
		"ICMP without type":     {ipv4(src, dst, 1, nil), false},
		"first fragment":        {with(ipv4(src, dst, 17, nil), offFragment, 0x20), true},
		"later fragment":        {with(ipv4(src, dst, 17, nil), offFragment+1, 1), false},
		"to multicast":          {ipv4(src, "224.0.0.251", 17, nil), false},
		"to everybody":          {ipv4(src, "255.255.255.255", 17, nil), false},
		"from nobody":           {ipv4("0.0.0.0", dst, 17, nil), false},
		"from loopback":         {ipv4("127.0.0.1", dst, 17, nil), false},
		"from a multicast addr": {ipv4("239.1.1.1", dst, 17, nil), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := answerable(tt.packet); got != tt.want {
				t.Errorf("answerable: %v, want %v", got, tt.want)
			}
		})
	}
}
