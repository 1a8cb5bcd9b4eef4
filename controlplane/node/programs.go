// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"sync"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/maps"
)

// programs is the dataplane of our eBPF programs. The kernel's own tables say
// the same beside them, for people, and for what the programs leave to it.
type programs struct {
	*session
	datapath  Datapath
	tables    *ebpf.Dataplane
	kernel    netlink.View
	endpoints *ebpf.Endpoints
	nat       *natWatch
	xdp       xdp.Choice

	// Of apply alone:
	attached bool // the programs of uplink and overlay are in place
	doubted  bool // the maps may hold other things than were written

	attaching sync.Mutex // of the datapath's programs: apply and serve share it
}

// network is the number of flannel's one network in the maps' keys.
const network = 0

// openPrograms loads the datapath, which is not attached yet (or, after a
// restart, is, and works on as it was).
func openPrograms(s *session) (_ *programs, err error) {
	p := &programs{session: s}
	settings := ebpf.Settings(s.config.Backend.DirectRouting, ebpf.Network{
		Self: s.self, Prefix: s.config.Network, SubnetLen: s.config.SubnetLen,
		Overlay: ebpf.Overlay{Ifindex: s.overlay.Ifindex, MAC: s.overlay.MAC},
	})
	if err = p.chooseXDP(&settings); err != nil {
		return nil, err
	}
	if p.datapath, err = s.Open(settings); err != nil {
		return nil, err
	}
	if err = p.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("read maps: %w", err), p.datapath.Close())
	}
	return p, nil
}

func (p *programs) read() error {
	set, err := maps.NewSet(p.datapath.Maps())
	if err != nil {
		return err
	}
	if p.tables, err = ebpf.New(set, network, p.self.VNI); err != nil {
		return err
	}
	if p.endpoints, err = ebpf.NewEndpoints(set, network); err != nil {
		return err
	}
	p.nat = &natWatch{session: p.session, mode: set.NAT, conntrack: set.Settings.Conntrack}
	_, _, err = p.nat.update() // before the programs are attached
	return err
}

// apply fills the maps, attaches, and only then has the kernel's routes lead to
// where the programs are. What has failed is tried again with the next state;
// the programs are attached even where some record could not be written, for
// the others are served.
func (p *programs) apply(s topology.State) ([]topology.Problem, error) {
	var err error
	if p.doubted {
		err = p.tables.Reread()
		p.doubted = err != nil
	}
	err = errors.Join(err, p.tables.Apply(s), p.attach())
	if !p.attached && p.alone() {
		return nil, err // what the routes lead to now may still work
	}
	problems, kernelErr := p.kernel.Apply(s, p.overlay)
	if p.attached && kernelErr == nil {
		kernelErr = p.retireOthers()
	}
	return problems, errors.Join(err, kernelErr)
}

// alone reports whether no device of the kernel's carries what the programs do not.
func (p *programs) alone() bool {
	return p.self.Encap == topology.EncapIPIP || p.self.Encap == topology.EncapUDP
}

func (p *programs) inPlace() bool { return p.attached }

func (p *programs) doubt() {
	p.attached, p.doubted = false, true
	p.kernel.Doubt()
}

func (p *programs) doubtKernel() { p.kernel.Doubt() }

func (p *programs) close() error { return p.datapath.Close() }

// attach puts the programs in place, once the maps are filled.
func (p *programs) attach() error {
	if p.attached {
		return nil
	}
	fromHost, fromVeth := p.overlay.Ifindex, 0
	if p.self.Encap == topology.EncapUDP {
		fromHost, fromVeth = 0, p.overlay.PeerIfindex
	}
	if err := p.clearXDP(); err != nil {
		return err
	}
	if err := p.attachOnly(bpf.FromNetwork, p.uplink.Ifindex); err != nil {
		return err
	}
	if err := p.attachOnly(bpf.FromVeth, fromVeth); err != nil {
		return err
	}
	if err := p.attachOnly(bpf.FromHost, fromHost); err != nil {
		return err
	}
	// Last, for it drops what from_network has not marked: what was on its way
	// through the kernel's device before that was attached has to be through.
	maps.WaitForReaders()
	if err := p.attachOnly(bpf.FromOverlay, p.overlay.Ifindex); err != nil {
		return err
	}
	p.attachXDP()
	p.attached = true
	return nil
}

// attachOnly has the program on this interface and on no other; on none where ifindex is 0.
func (p *programs) attachOnly(program string, ifindex int) error {
	p.attaching.Lock()
	defer p.attaching.Unlock()
	if ifindex != 0 {
		if err := p.datapath.Attach(program, ifindex); err != nil {
			return err
		}
	}
	on, err := p.datapath.Attached(program)
	if err != nil {
		return err
	}
	for _, other := range on {
		if other != ifindex {
			err = errors.Join(err, p.datapath.Detach(program, other))
		}
	}
	return err
}
