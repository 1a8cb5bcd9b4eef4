// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

// ErrForeignXDP is the error of an interface that has somebody else's XDP
// program: there is one place, and it is theirs.
var ErrForeignXDP = errors.New("another XDP program is on the interface, and is left alone")

// usesXDP reports whether from_wire is to be attached under these settings.
func usesXDP(s *bpf.DatapathSettings) bool { return s.UplinkMac != bpf.DatapathMac{} }

// nativeXDP reports in which mode: that in which it decapsulates.
func nativeXDP(s *bpf.DatapathSettings) bool { return s.WireMac != bpf.DatapathMac{} }

// setXDP has from_wire loaded only where it is used, for it needs kernel 5.18.
// In generic mode it is loaded as a program that takes no packets in several
// buffers: the kernel makes them one. For those that do take them kernels from 6.9
// on copy the skb instead, and the copy has no mac_len, so that programs at tc,
// from_network and everybody's, get the packet without its Ethernet header
// (netif_skb_check_for_xdp() in net/core/dev.c, skb_pp_cow_data() in net/core/skbuff.c).
func setXDP(spec *ebpf.CollectionSpec, s *bpf.DatapathSettings) {
	switch {
	case !usesXDP(s):
		delete(spec.Programs, bpf.FromWire)
	case !nativeXDP(s):
		spec.Programs[bpf.FromWire].Flags &^= unix.BPF_F_XDP_HAS_FRAGS
	}
}

// xdp attaches by XDP links (kernel 5.9), native or generic.
type xdp struct {
	links
	native bool
}

func newXDP(pinDir string, native bool) *xdp { return &xdp{links{pinDir: pinDir, xdp: true}, native} }

// attach replaces an older program of ours in place. It stands in the same mode: see clear.
func (x *xdp) attach(a attachment, prog *ebpf.Program) error {
	pin, err := x.path(a)
	if err != nil {
		return err
	}
	old, err := openLink(pin, a.ifindex)
	if err != nil {
		return err
	}
	if old != nil {
		return errors.Join(replace(old, prog), old.Close())
	}
	if err = os.MkdirAll(filepath.Dir(pin), 0o700); err != nil {
		return err
	}
	flags := link.XDPGenericMode
	if x.native {
		flags = link.XDPDriverMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Interface: a.ifindex, Program: prog, Flags: flags})
	// EEXIST: it is attached in the other mode (dev_xdp_attach() in net/core/dev.c).
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return ErrForeignXDP
	}
	if err != nil {
		return err
	}
	return pinLink(l, pin)
}

// isNative reports whether an interface's XDP program runs in the driver.
func isNative(ifindex int) (bool, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return false, fmt.Errorf("look at interface: %w", err)
	}
	on := l.Attrs().Xdp
	return on != nil && on.AttachMode == nl.XDP_ATTACHED_DRV, nil
}

// ClearXDP takes from_wire off every interface but this one, and off it too
// where it runs in another mode than the settings have; 0: off all. It is to be
// called before from_network is attached, or replaced by one of other settings,
// which need not know the packets of the from_wire there was.
func (d *Datapath) ClearXDP(ifindex int) error {
	if err := d.xdp.clear(ifindex); err != nil {
		return fmt.Errorf("take %s off: %w", bpf.FromWire, err)
	}
	return nil
}

func (x *xdp) clear(keep int) error {
	on, err := x.list()
	if err != nil {
		return err
	}
	gone := false
	for _, a := range on {
		if a.ifindex == keep {
			if native, e := isNative(keep); e != nil || native == x.native {
				err = errors.Join(err, e)
				continue
			}
		}
		err = errors.Join(err, x.detach(a))
		gone = true
	}
	if gone {
		maps.WaitForReaders() // what it has changed is let through
	}
	return err
}

// detachXDP takes from_wire off before anything else.
func detachXDP(pinDir string) error { return newXDP(pinDir, false).clear(0) }

// cpuQueue is how many packets may wait for a CPU that IPIP packets are spread to.
const cpuQueue = 2048

// cpuValue is struct bpf_cpumap_val of include/uapi/linux/bpf.h.
type cpuValue struct {
	QueueSize uint32
	Program   int32 // the descriptor to set it by, its number to read it; none
}

// fillCPUs makes the queues to the CPUs that are spread over, and only those:
// each has a kernel thread.
func fillCPUs(m *ebpf.Map, s *bpf.DatapathSettings) error {
	want := make(map[uint32]bool, s.Spread)
	for _, cpu := range s.Cpu[:s.Spread] {
		want[uint32(cpu)] = true
	}
	for cpu := range m.MaxEntries() {
		var queue cpuValue
		err := m.Lookup(cpu, &queue)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("look up queue of CPU %d: %w", cpu, err)
		}
		switch have := err == nil; {
		case have && !want[cpu]:
			err = m.Delete(cpu)
		case want[cpu] && (!have || queue.QueueSize != cpuQueue):
			err = m.Put(cpu, cpuValue{QueueSize: cpuQueue})
		default:
			err = nil
		}
		if err != nil {
			return fmt.Errorf("set queue of CPU %d: %w", cpu, err)
		}
	}
	return nil
}
