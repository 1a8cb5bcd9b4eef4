// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// xdpOptions are testOptions with from_wire, in native mode or generic.
func xdpOptions(t *testing.T, native bool) Options {
	t.Helper()
	o := testOptions(t)
	withXDP(&o, native)
	return o
}

func withXDP(o *Options, native bool) {
	o.Settings.UplinkMac = bpf.DatapathMac{Byte: [6]byte{2, 1}}
	o.Settings.WireMac = bpf.DatapathMac{}
	if native {
		o.Settings.WireMac.Byte = [6]byte{2, 2}
	}
}

// xdpOf is an interface's XDP program, and the mode it runs in.
func xdpOf(t *testing.T, ifindex int) netlink.LinkXdp {
	t.Helper()
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	if l.Attrs().Xdp == nil {
		return netlink.LinkXdp{}
	}
	return *l.Attrs().Xdp
}

func TestXDP(t *testing.T) {
	for mode, native := range map[uint32]bool{nl.XDP_ATTACHED_DRV: true, nl.XDP_ATTACHED_SKB: false} {
		nstest.Enter(t)
		eth := nstest.AddVeth(t, "eth0", 1500)
		o := xdpOptions(t, native)
		d := start(t, o, bpf.FromWire, eth)
		before, pin := xdpOf(t, eth), linkID(t, o, eth)
		if before.AttachMode != mode {
			t.Errorf("attached in mode %d, want %d", before.AttachMode, mode)
		}
		if on, err := d.Attached(bpf.FromWire); err != nil || !slices.Equal(on, []int{eth}) {
			t.Errorf("attached to %v, %v, want %d", on, err, eth)
		}
		start(t, o, bpf.FromWire, eth)
		if now := xdpOf(t, eth); now != before {
			t.Errorf("a restart replaced the program: %+v, %+v before", now, before)
		}
		o.Settings.Vni++
		d = start(t, o, bpf.FromWire, eth)
		if now := xdpOf(t, eth); now.ProgId == before.ProgId || linkID(t, o, eth) != pin {
			t.Errorf("after a change of settings program %d, link %d, before %d and %d: want another program on the same link",
				now.ProgId, linkID(t, o, eth), before.ProgId, pin)
		}
		for range 2 {
			if err := d.Detach(bpf.FromWire, eth); err != nil {
				t.Error(err)
			}
		}
		if now := xdpOf(t, eth); now.Attached {
			t.Errorf("still attached: %+v", now)
		}
	}
}

func linkID(t *testing.T, o Options, ifindex int) link.ID {
	t.Helper()
	pin, err := newXDP(o.PinDir, true).path(attachment{hook{program: bpf.FromWire}, ifindex})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := l.Info()
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return info.ID
}

func TestXDPModeChanges(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := xdpOptions(t, true)
	for _, native := range []bool{true, false, true} {
		withXDP(&o, native)
		d := open(t, o)
		if err := errors.Join(d.ClearXDP(eth), d.Attach(bpf.FromWire, eth), d.Publish()); err != nil {
			t.Fatal(err)
		}
		want := uint32(nl.XDP_ATTACHED_SKB)
		if native {
			want = nl.XDP_ATTACHED_DRV
		}
		if now := xdpOf(t, eth); now.AttachMode != want {
			t.Errorf("mode %d, want %d", now.AttachMode, want)
		}
	}
	before := linkID(t, o, eth)
	d := open(t, o)
	if err := d.ClearXDP(eth); err != nil || linkID(t, o, eth) != before {
		t.Errorf("what stands as it should was taken off (%v)", err)
	}
	if err := d.ClearXDP(0); err != nil || xdpOf(t, eth).Attached {
		t.Errorf("still attached (%v)", err)
	}
}

// Somebody else's program stays, in either mode, and is told of.
func TestForeignXDP(t *testing.T) {
	for _, flags := range []link.XDPAttachFlags{link.XDPGenericMode, link.XDPDriverMode} {
		nstest.Enter(t)
		eth := nstest.AddVeth(t, "eth0", 1500)
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := link.AttachXDP(link.XDPOptions{Interface: eth, Program: pass, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		before := xdpOf(t, eth)
		for _, native := range []bool{true, false} {
			d := open(t, xdpOptions(t, native))
			if err := d.Attach(bpf.FromWire, eth); !errors.Is(err, ErrForeignXDP) {
				t.Errorf("error %v, want %v", err, ErrForeignXDP)
			}
		}
		if now := xdpOf(t, eth); now != before {
			t.Errorf("their program was %+v, is %+v", before, now)
		}
		if err := errors.Join(theirs.Close(), pass.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCleanupTakesXDPOff(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := xdpOptions(t, true)
	start(t, o, bpf.FromWire, eth)
	if err := Cleanup(filepath.Dir(o.PinDir)); err != nil {
		t.Fatal(err)
	}
	if now := xdpOf(t, eth); now.Attached {
		t.Errorf("still attached: %+v", now)
	}
}

// Without XDP from_wire is not even loaded: an older kernel could not.
func TestNoXDP(t *testing.T) {
	nstest.Enter(t)
	d := open(t, testOptions(t))
	if d.coll.Programs[bpf.FromWire] != nil {
		t.Error("from_wire is loaded")
	}
}

// The queues to CPUs are those of the settings, also after a restart with others.
func TestCPUs(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := xdpOptions(t, true)
	last := uint16(ebpf.MustPossibleCPU() - 1)
	for _, want := range [][]uint16{{0}, {0, last}, {last}, {}} {
		o.Settings.Cpu = [64]uint16{}
		o.Settings.Spread = uint8(copy(o.Settings.Cpu[:], want))
		d := start(t, o, bpf.FromWire, eth)
		var have []uint16
		for cpu := range d.coll.Maps["cpus"].MaxEntries() {
			var queue cpuValue
			switch err := d.coll.Maps["cpus"].Lookup(cpu, &queue); {
			case err == nil && queue.QueueSize == cpuQueue:
				have = append(have, uint16(cpu))
			case err != nil && !errors.Is(err, ebpf.ErrKeyNotExist):
				t.Fatal(err)
			}
		}
		if slices.Sort(have); !slices.Equal(have, slices.Compact(slices.Sorted(slices.Values(want)))) {
			t.Errorf("queues to CPUs %v, want %v", have, want)
		}
	}
	if _, err := os.Stat(filepath.Join(o.PinDir, mapsDir, "cpus")); err != nil {
		t.Error(err)
	}
}
