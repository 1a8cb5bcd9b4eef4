// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

func TestListIsTakenAgainWhenInterrupted(t *testing.T) {
	calls := 0
	got, err := List("things", func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{1, 1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{1, 2}, got); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
}

func TestListGivesUp(t *testing.T) {
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		err   error
		calls int
	}{
		"never whole":   {netlink.ErrDumpInterrupted, listTries},
		"another error": {broken, 1},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			_, err := List("things", func() ([]int, error) { calls++; return nil, tc.err })
			if !errors.Is(err, tc.err) || calls != tc.calls {
				t.Errorf("got %v after %d calls, want %v after %d", err, calls, tc.err, tc.calls)
			}
		})
	}
}

func TestConversions(t *testing.T) {
	for _, s := range []string{"0.0.0.0/0", "172.246.0.0/24", "10.0.0.1/32", "2001:db8::/64"} {
		p := netip.MustParsePrefix(s)
		if got := Prefix(IPNet(p)); got != p {
			t.Errorf("Prefix(IPNet(%s)) = %s", p, got)
		}
	}
	if got := Prefix(nil); got.IsValid() {
		t.Errorf("Prefix(nil) = %s", got)
	}
	if got := Addr(net.IPv4(10, 0, 0, 1)); got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("Addr of a mapped IPv4 address = %s", got)
	}
	if got := Addr(nil); got.IsValid() {
		t.Errorf("Addr(nil) = %s", got)
	}
}
