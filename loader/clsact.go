// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// filterPrefix marks our filters among those of others.
	filterPrefix = "bpfnet:"
	// filterPriority puts us behind filters that did not choose a high number: theirs is the first say.
	filterPriority = 0xbf00
)

// clsact attaches by direct-action filters of the clsact qdisc, which stay
// until they are removed.
type clsact struct{}

func (c clsact) attach(a attachment, prog *ebpf.Program) error {
	old, err := c.find(a)
	if err != nil {
		return err
	}
	if old != nil {
		if same, err := sameAsFilter(old, prog); err != nil || same {
			return err
		}
	}
	if err := netlink.QdiscAdd(qdisc(a.ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact qdisc: %w", err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: a.ifindex, Parent: side(a.hook), Handle: a.hook.handle,
			Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: prog.FD(), Name: filterPrefix + a.hook.program, DirectAction: true,
	}
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("set filter: %w", err)
	}
	return nil
}

func sameAsFilter(f *netlink.BpfFilter, prog *ebpf.Program) (bool, error) {
	old, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.Id))
	if err != nil {
		return false, fmt.Errorf("open attached program: %w", err)
	}
	same, err := sameProgram(old, prog)
	return same, errors.Join(err, old.Close())
}

func (c clsact) detach(a attachment) error {
	f, err := c.find(a)
	if err != nil || f == nil {
		return err
	}
	if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove filter: %w", err)
	}
	return c.removeEmptyQdisc(a.ifindex)
}

// removeEmptyQdisc takes the clsact qdisc away once nobody's filter is left in it.
func (clsact) removeEmptyQdisc(ifindex int) error {
	for _, h := range hooks {
		left, err := filters(attachment{h, ifindex})
		if err != nil || len(left) > 0 {
			return err
		}
	}
	if err := netlink.QdiscDel(qdisc(ifindex)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove clsact qdisc: %w", err)
	}
	return nil
}

func (c clsact) list() ([]attachment, error) {
	links, err := interfaces()
	if err != nil {
		return nil, err
	}
	var all []attachment
	for _, l := range links {
		for _, h := range hooks {
			a := attachment{h, l.Attrs().Index}
			f, err := c.find(a)
			if err != nil {
				return nil, err
			}
			if f != nil {
				all = append(all, a)
			}
		}
	}
	return all, nil
}

func (c clsact) detachUnknown() error {
	links, err := interfaces()
	if err != nil {
		return err
	}
	for _, l := range links {
		for _, h := range []hook{{}, {egress: true}} {
			all, e := filters(attachment{h, l.Attrs().Index})
			err = errors.Join(err, e)
			for _, f := range all {
				if unknown(f) {
					err = errors.Join(err, netlink.FilterDel(f), c.removeEmptyQdisc(l.Attrs().Index))
				}
			}
		}
	}
	return err
}

// listTries bounds how often interfaces are listed again that came or went meanwhile.
const listTries = 20

// interfaces are those of this network namespace. A listing that was interrupted by a change
// (NLM_F_DUMP_INTR), as there are many on a node that starts containers, is taken again: it may lack some.
func interfaces() (all []netlink.Link, err error) {
	for range listTries {
		if all, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

func unknown(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	if !ok {
		return false
	}
	program, ours := strings.CutPrefix(b.Name, filterPrefix)
	_, known := hookByProgram(program)
	return ours && !known
}

// find is our filter of this attachment, nil if there is none.
func (clsact) find(a attachment) (*netlink.BpfFilter, error) {
	all, err := filters(a)
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterPrefix+a.hook.program {
			return b, nil
		}
	}
	return nil, nil
}

func filters(a attachment) ([]netlink.Filter, error) {
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: a.ifindex}}
	all, err := netlink.FilterList(l, side(a.hook))
	// Without a clsact qdisc there is nothing to list (EINVAL), nor without the interface.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	return all, nil
}

func side(h hook) uint32 {
	if h.egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func qdisc(ifindex int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}
