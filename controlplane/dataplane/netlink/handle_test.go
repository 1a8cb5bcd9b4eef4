// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

func TestDumpIsTakenAgainWhenInterrupted(t *testing.T) {
	calls := 0
	got, err := dump("things", func() ([]int, error) {
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

func TestDumpGivesUp(t *testing.T) {
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		err   error
		calls int
	}{
		"never whole":   {netlink.ErrDumpInterrupted, dumpTries},
		"another error": {broken, 1},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			_, err := dump("things", func() ([]int, error) { calls++; return nil, tc.err })
			if !errors.Is(err, tc.err) || calls != tc.calls {
				t.Errorf("got %v after %d calls, want %v after %d", err, calls, tc.err, tc.calls)
			}
		})
	}
}

func TestUnicast(t *testing.T) {
	for mac, want := range map[topology.MAC]bool{
		{}:                                   false,
		{0x01, 0, 0x5e, 1}:                   false,
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}: false,
		{0xc6, 1, 2, 3, 4, 5}:                true,
	} {
		if got := unicast(mac); got != want {
			t.Errorf("unicast(%v) = %t, want %t", mac, got, want)
		}
	}
}

func TestRandomMACIsLocalUnicast(t *testing.T) {
	seen := map[topology.MAC]bool{}
	for range 100 {
		m := randomMAC()
		if !unicast(m) || m[0]&2 == 0 || seen[m] {
			t.Fatalf("randomMAC() = %v", hardwareAddr(m))
		}
		seen[m] = true
	}
}
