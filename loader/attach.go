// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// hook is the side of an interface a program belongs to.
type hook struct {
	program string
	egress  bool
	handle  uint32 // of its clsact filter
	xdp     bool   // and not tc
}

// hooks stand in the order in which programs are taken off: each only leaves
// more to the kernel that way. from_overlay drops what from_network has not
// marked, so it goes first; and before it from_wire, whose packets only from_network knows.
var hooks = []hook{
	{program: bpf.FromWire, xdp: true},
	{program: bpf.FromContainer, handle: 1},
	{program: bpf.FromOverlay, handle: 4},
	{program: bpf.FromNetwork, handle: 2},
	{program: bpf.FromHost, handle: 3, egress: true},
	{program: bpf.FromVeth, handle: 5},
}

// attachment is a hook on an interface.
type attachment struct {
	hook    hook
	ifindex int
}

// attacher puts programs on interfaces: by tcx, or by clsact filters.
type attacher interface {
	// attach is idempotent. It replaces an older program of ours in place and
	// writes nothing where the right one is.
	attach(a attachment, prog *ebpf.Program) error
	detach(a attachment) error
	list() ([]attachment, error)
	// detachUnknown takes off what a newer version attached and this one has no hook for.
	detachUnknown() error
}

func newAttacher(o Options) attacher {
	if o.Clsact {
		return clsact{}
	}
	return newTCX(o.PinDir)
}

// otherAttacher is the one not in use.
func (d *Datapath) otherAttacher() attacher {
	if _, isTCX := d.attacher.(*tcx); isTCX {
		return clsact{}
	}
	return newTCX(d.pinDir)
}

func (d *Datapath) attacherOf(h hook) attacher {
	if h.xdp {
		return d.xdp
	}
	return d.attacher
}

// Attach puts a program on an interface, or makes it the right one where an
// older one is. It writes nothing where the right one is already.
func (d *Datapath) Attach(program string, ifindex int) error {
	h, ok := hookByProgram(program)
	if !ok {
		return fmt.Errorf("attach %s: no such program", program)
	}
	a := attachment{h, ifindex}
	if h.xdp {
		if err := d.xdp.attach(a, d.coll.Programs[program]); err != nil {
			return fmt.Errorf("attach %s to interface %d: %w", program, ifindex, err)
		}
		return nil
	}
	err := d.attacher.attach(a, d.coll.Programs[program])
	if _, isTCX := d.attacher.(*tcx); isTCX && errors.Is(err, ebpf.ErrNotSupported) {
		d.attacher = clsact{} // tcx came with kernel 6.6
		err = d.attacher.attach(a, d.coll.Programs[program])
	}
	if err != nil {
		return fmt.Errorf("attach %s to interface %d: %w", program, ifindex, err)
	}
	return nil
}

// Detach takes a program off an interface; that it is not there is no error.
func (d *Datapath) Detach(program string, ifindex int) error {
	h, ok := hookByProgram(program)
	if !ok {
		return fmt.Errorf("detach %s: no such program", program)
	}
	if err := d.attacherOf(h).detach(attachment{h, ifindex}); err != nil {
		return fmt.Errorf("detach %s from interface %d: %w", program, ifindex, err)
	}
	return nil
}

// Attached lists the interfaces a program is attached to, by this daemon or an earlier one.
func (d *Datapath) Attached(program string) ([]int, error) {
	h, ok := hookByProgram(program)
	if !ok {
		return nil, fmt.Errorf("list where %s is attached: no such program", program)
	}
	all, err := d.attacherOf(h).list()
	if err != nil {
		return nil, fmt.Errorf("list attached programs: %w", err)
	}
	var on []int
	for _, a := range all {
		if a.hook.program == program {
			on = append(on, a.ifindex)
		}
	}
	return on, nil
}

// sameProgram reports whether two programs are the same code on the same maps.
func sameProgram(a, b *ebpf.Program) (bool, error) {
	ia, err := a.Info()
	if err != nil {
		return false, fmt.Errorf("read program info: %w", err)
	}
	ib, err := b.Info()
	if err != nil {
		return false, fmt.Errorf("read program info: %w", err)
	}
	ma, _ := ia.MapIDs()
	mb, _ := ib.MapIDs()
	slices.Sort(ma)
	slices.Sort(mb)
	return ia.Tag == ib.Tag && slices.Equal(ma, mb), nil
}

func hookByProgram(name string) (hook, bool) {
	i := rank(name)
	if i < 0 {
		return hook{}, false
	}
	return hooks[i], true
}

// rank is a program's place in hooks; -1 for none.
func rank(program string) int {
	return slices.IndexFunc(hooks, func(h hook) bool { return h.program == program })
}
