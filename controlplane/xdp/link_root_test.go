// SPDX-License-Identifier: Apache-2.0

//go:build root

package xdp

import (
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

func TestLook(t *testing.T) {
	nstest.Enter(t)
	mac := topology.MAC{2}
	l, err := Look(nstest.AddVeth(t, "eth0", 1500), "eth0", mac, true)
	if err != nil {
		t.Fatal(err)
	}
	if l.Driver != "veth" || l.Hardware || l.MAC != mac || !l.Tunnels || l.Kernel == 0 {
		t.Errorf("%+v", l)
	}
	if known := l.Kernel >= 6<<16|3<<8; l.Known != known {
		t.Errorf("features known: %t, want %t", l.Known, known)
	}
	if l.Known && l.Features&actBasic == 0 {
		t.Errorf("veth without native XDP: %+v", l)
	}
	if l, err = Look(1, "lo", topology.MAC{}, true); err != nil || l.Hardware || l.Features&actBasic != 0 {
		t.Errorf("loopback: %+v, %v", l, err)
	}
}
