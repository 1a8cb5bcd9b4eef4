// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"math"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// View is the kernel's view of the network: its routes, neighbours and FDB, as
// they were listed and as they were written since. The zero View knows nothing
// yet. Not for concurrent use; one is for one family.
type View struct {
	have    *tables         // nil before they are listed
	dev     Device          // for which they were
	applied *topology.State // what they serve, but for what is to be written yet; nil where that is not known
	work    *work           // what is to be written yet; nil where that is nothing
	across  Device
}

// Across is a second device beside dev of the last Apply; the zero Device for none. By it go
// the packets of ipip by the kernel to peers that have an address of the other family alone.
func (v *View) Across() Device { return v.across }

// Doubt has the tables listed again by the next Apply: others may have written to them.
func (v *View) Doubt() { *v = View{} }

// Apply is [View.Advance] to the end.
func (v *View) Apply(s topology.State, dev Device) ([]topology.Problem, error) {
	_, problems, err := v.Advance(s, dev, Step{Peers: math.MaxInt})
	return problems, err
}

// Step is how far to go at a time.
type Step struct {
	Peers int // that are written at most
	// Cover: until all are written the rest are served by routes that lead to all
	// of them at once, which the programs at the overlay device can tell apart.
	Cover bool
}

// Advance makes the kernel's routes, neighbours and FDB serve the peers of s and
// removes what of ours serves none, whoever left it. What is right already is
// not written. It returns how many peers are left to be written by the next
// calls, those that changed first. The peers' subnets must not overlap. dev is what [EnsureOverlay]
// has returned. Where all went well before, only the peers that differ from then
// are looked at, for which s is kept: it must not be written to any more.
//
// A peer that cannot be served is returned as a problem; the others are served.
// The error tells what concerns them all: a table that cannot be listed, a stale
// entry that cannot be removed.
func (v *View) Advance(s topology.State, dev Device, step Step) (left int, problems []topology.Problem, err error) {
	k, err := openKernel()
	if err != nil {
		return 0, nil, err
	}
	defer k.Close()
	f := familyOf(s.Self.Subnet.Addr())
	if v.have == nil || v.dev != dev {
		*v = View{dev: dev}
		if v.have, err = k.list(f, dev.Ifindex); err != nil {
			v.Doubt()
			return 0, nil, err
		}
	}
	v.plan(k, s, f, step)
	w := writer{kernel: k, work: v.work}
	left = w.advance(step.Peers)
	err = w.pruneChanged()
	problems = append(w.problems(), w.strays(s)...)
	switch {
	case err == nil && left > 0:
		return left, problems, nil
	case err == nil:
		err = w.finish()
	}
	if v.work = nil; err != nil || len(w.failed) > 0 {
		v.applied = nil
	}
	return 0, problems, err
}

// plan has v.work lead to s.
func (v *View) plan(k kernel, s topology.State, f family, step Step) {
	known := v.applied != nil && v.applied.Self == s.Self
	if !known || v.work == nil {
		v.work = newWork(v, s, f)
	}
	if known {
		was, is := topology.Changes(v.applied.Peers, s.Peers)
		v.work.ensureAcross(k, is)
		v.work.change(was, is)
	} else {
		v.work.ensureAcross(k, s.Peers)
		v.work.all(s.Peers, step)
	}
	v.across, v.applied = v.work.across, &s
}
