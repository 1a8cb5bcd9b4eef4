// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

// A flag that this kernel does not know is to it what BPF_F_ADJ_ROOM_ENCAP_L2_ETH
// is to a kernel before 5.13.
func TestAdjustRoom(t *testing.T) {
	const unknown = 1 << 55 // the last below BPF_F_ADJ_ROOM_ENCAP_L2's byte
	for name, test := range map[string]struct {
		flags int64
		want  error
	}{
		"VXLAN":                 {vxlanAdjust, nil},
		"VXLAN and a new flag":  {vxlanAdjust | unknown, ebpf.ErrNotSupported},
		"none of encapsulation": {0, nil},
	} {
		if err := adjustRoom(test.flags); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestProbe(t *testing.T) {
	if err := Probe(); err != nil {
		t.Error(err)
	}
	defer func(all []need) { needs = all }(needs)
	needs = append(needs, need{"something of tomorrow", "99.0", func() error { return adjustRoom(1 << 55) }})
	err := Probe()
	if want := "the datapath needs something of tomorrow, kernel 99.0 or later"; err == nil || err.Error() != want {
		t.Errorf("probe for what is missing: %v, want %s", err, want)
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		t.Errorf("%v is not ebpf.ErrNotSupported", err)
	}
}
