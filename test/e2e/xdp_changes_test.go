// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestXDPSwitch restarts daemons with other --xdp, and kills them, under two pings
// of 1,000/s that cross (topology as TestRestart). A packet may overtake another: a veth with native XDP has a queue,
// worked off by the CPU that was last woken for anybody's packet, and each CPU to spread to has one.
func TestXDPSwitch(t *testing.T) {
	forEach(t, modesOf(node.EBPF, topology.EncapVXLAN, topology.EncapIPIP), nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		for _, test := range []struct {
			name  string
			flags []string
			mode  xdp.Mode
			same  bool // the link is
		}{
			{"native", []string{"--xdp=native"}, xdp.Native, false},
			{"native again", []string{"--xdp=native"}, xdp.Native, true},
			{"other maps", []string{"--xdp=native", "--max-hosts=1024"}, xdp.Native, true},
			{"generic", []string{"--xdp=generic"}, xdp.Generic, false},
			{"generic, spread", []string{"--xdp=generic", "--xdp-cpus=0-1"}, xdp.Generic, true},
			{"auto", []string{"--xdp=auto"}, xdp.Off, false}, // on veth
		} {
			t.Run(test.name, func(t *testing.T) {
				there, back := crossing(t, h1, h2)
				before := pinsOf(t, h2)
				for _, h := range []*lab.Host{h2, h1} {
					noError(t, h.KillDaemon())
				}
				for _, h := range l.Hosts {
					noError(t, h.StartDaemon(t.Context(), test.flags...))
				}
				for _, h := range l.Hosts {
					waitPeers(t, h, 1)
					waitXDP(t, h, test.mode)
				}
				there.more(50)
				back.more(50)
				after := pinsOf(t, h2)
				if test.same && (after.wireLink() == 0 || after.wireLink() != before.wireLink()) {
					t.Errorf("link of from_wire was %d, is %d", before.wireLink(), after.wireLink())
				}
				there.unordered()
				back.unordered()
			})
		}
	})
}

// waitXDP waits until a daemon says that XDP is in a mode, and looks whether it is.
func waitXDP(t *testing.T, h *lab.Host, m xdp.Mode) {
	t.Helper()
	until(t, "XDP of "+h.Name+" is "+string(m), func() (bool, error) {
		s, err := h.DaemonStatus(t.Context())
		return err == nil && s.Ready && s.XDP != nil && s.XDP.Mode == m, err
	})
	on := linkOf(t, h, lab.Uplink).Attrs().Xdp
	if attached := on != nil && on.Attached; attached != (m != xdp.Off) {
		t.Errorf("%s: a program is attached: %t", h.Name, attached)
	}
}

// wireLink is the link of from_wire; 0 where there is none.
func (d datapath) wireLink() link.ID {
	for name, id := range d.Links {
		if strings.HasPrefix(name, "from_wire-") {
			return id
		}
	}
	return 0
}

// TestXDPForeign: somebody else's XDP program on the uplink stays; packets go by tc, and the daemon says so.
func TestXDPForeign(t *testing.T) {
	l := up(t, nil)
	h1, h2 := l.Hosts[0], l.Hosts[1]
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	noError(t, err)
	t.Cleanup(func() { noError(t, pass.Close()) })
	uplink := ifindex(t, h1, lab.Uplink)
	var theirs link.Link
	noError(t, h1.NS.Do(func() error {
		theirs, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: uplink, Flags: link.XDPGenericMode})
		return err
	}))
	startDaemons(t, l, "--xdp=native")
	until(t, "h1 says why it has no XDP", func() (bool, error) {
		s, e := h1.DaemonStatus(t.Context())
		return e == nil && s.XDP != nil && s.XDP.Mode == xdp.Off && strings.Contains(s.XDP.Why, "another XDP program") &&
			slices.ContainsFunc(s.Problems, func(p node.Problem) bool { return p.Source == "xdp attach" }), e
	})
	waitXDP(t, h2, xdp.Native)
	info, err := pass.Info()
	noError(t, err)
	id, _ := info.ID()
	if on := linkOf(t, h1, lab.Uplink).Attrs().Xdp; on == nil || on.ProgId != uint32(id) {
		t.Errorf("their program %d is not what is attached: %+v", id, on)
	}
	c1, c2 := h1.Containers[0], h2.Containers[0]
	transfer(t, c1.NS, c2.NS, c2.Addr, 4<<20)
	transfer(t, c2.NS, c1.NS, c1.Addr, 4<<20)
	noError(t, theirs.Close())
}

// TestXDPCleanup leaves nothing of it.
func TestXDPCleanup(t *testing.T) {
	l := up(t, mode{node.EBPF, topology.EncapIPIP}.in(nil))
	startDaemons(t, l, "--xdp=generic", "--xdp-cpus=0-1")
	h1 := l.Hosts[0]
	waitXDP(t, h1, xdp.Generic)
	noError(t, h1.StopDaemon(t.Context()))
	bpfnet(t, h1, "cleanup")
	if on := linkOf(t, h1, lab.Uplink).Attrs().Xdp; on != nil && on.Attached {
		t.Errorf("still attached: %+v", on)
	}
	if left := pinsOf(t, h1); len(left.Links) > 0 || len(left.Maps) > 0 {
		t.Errorf("pins are left: %+v", left)
	}
}
