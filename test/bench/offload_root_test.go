// SPDX-License-Identifier: Apache-2.0

//go:build root

package bench

import (
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestOffloads: TCP's superpackets leave and reach a host whole, in segments, or are put together again on
// arrival, as the load says; then everything is as before.
func TestOffloads(t *testing.T) {
	const frame = 14 + 1500 // bytes, the largest without an offload
	modes, err := ModesNamed([]string{hostMode})
	if err != nil {
		t.Fatal(err)
	}
	s, err := openSite(t.Context(), modes[0], options(t).Binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		load       string
		cut, whole bool // segments leave; superpackets arrive
	}{
		{"tcp_stream_notso", true, false},
		{"tcp_stream_notso_gro", true, true},
		{"tcp_stream", false, true},
	} {
		l, err := LoadsNamed([]string{test.load})
		if err != nil {
			t.Fatal(err)
		}
		restore, err := s.withFeatures(l[0].Uplink, l[0].Wire)
		if err != nil {
			t.Fatal(err)
		}
		if on := segmenting(t, uplink(s.lab.Hosts[0])); on == test.cut {
			t.Errorf("%s: ethtool says TSO is on: %t", test.load, on)
		}
		sent, received := largest(t, s)
		if (sent == frame) != test.cut || (received > frame) != test.whole || min(sent, received) < frame {
			t.Errorf("%s: the largest frames are of %d bytes sent and %d received; want segments to leave %t, superpackets to arrive %t",
				test.load, sent, received, test.cut, test.whole)
		}
		if err := restore(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.withFeatures(map[string]bool{"of-a-later-kernel": false}, nil); err != nil {
		t.Error(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	noneLeft(t)
}

// segmenting tells whether ethtool -k shows tcp-segmentation-offload as on: it does where any of TCP's is.
func segmenting(t *testing.T, n nic) (on bool) {
	t.Helper()
	err := n.do(func() error {
		all, err := ethtool.Features(n.name)
		for name, value := range all {
			on = on || value && strings.HasPrefix(name, "tx-tcp") && strings.HasSuffix(name, "-segmentation")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return on
}

// largest sends a TCP stream over a site and tells what the uplinks had of it, in bytes of the largest frame.
func largest(t *testing.T, s *site) (sent, received int) {
	t.Helper()
	captures := make([]*lab.Capture, len(s.lab.Hosts))
	for i, h := range s.lab.Hosts {
		var err error
		if captures[i], err = h.NS.Capture(lab.Uplink); err != nil {
			t.Fatal(err)
		}
	}
	if err := lab.TransferTCP(t.Context(), s.from, s.to, s.addr, 4<<20); err != nil {
		t.Error(err)
	}
	for i, of := range []*int{&sent, &received} {
		packets, err := captures[i].Stop()
		if err != nil {
			t.Error(err)
		}
		for _, p := range packets {
			if p.Outgoing == (i == 0) {
				*of = max(*of, p.Len)
			}
		}
	}
	return sent, received
}
