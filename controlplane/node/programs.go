// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
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
	endpoints *ebpf.Endpoints
	nat       *natWatch
	xdp       xdp.Choice

	// Of apply alone:
	attached bool  // the programs of uplink and overlay are in place
	doubted  bool  // the maps may hold other things than were written
	settled  bool  // what others have left is gone
	failed   error // of the last apply, but for the kernel's tables

	attaching sync.Mutex // of the datapath's programs: apply and serve share it
}

// network is the number of flannel's one network in the maps' keys.
const network = 0

// openPrograms loads the datapath, which is not attached yet (or, after a
// restart, is, and works on as it was).
func openPrograms(s *session) (_ *programs, err error) {
	if err = s.checkUplink(); err != nil {
		return nil, err
	}
	p := &programs{session: s}
	var networks []ebpf.Network
	for _, f := range s.families {
		networks = append(networks, ebpf.Network{
			Self: f.self, Prefix: f.prefix, SubnetLen: f.subnetLen,
			Overlay: ebpf.Overlay{Ifindex: f.overlay.Ifindex, MAC: f.overlay.MAC},
		})
	}
	settings := ebpf.Settings(s.config.Backend.DirectRouting, networks...)
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

// checkUplink refuses an uplink without Ethernet headers (WireGuard, TUN, PPP) where there is a tunnel, of whose packets
// from_network reads the Ethernet header too. Without a tunnel all that such an uplink receives is left to the kernel.
func (s *session) checkUplink() error {
	if s.uplink.MAC == (topology.MAC{}) && s.encap() != topology.EncapNone {
		return fmt.Errorf("uplink %s has no Ethernet, which the ebpf dataplane needs with the backend %s: choose another uplink, or --dataplane netlink",
			s.uplink.Name, s.encap())
	}
	return nil
}

func (p *programs) read() error {
	set, err := maps.NewSet(p.datapath.Maps())
	if err != nil {
		return err
	}
	if p.tables, err = ebpf.New(set, network, p.first().self.VNI); err != nil {
		return err
	}
	if p.endpoints, err = ebpf.NewEndpoints(set, network); err != nil {
		return err
	}
	p.nat = &natWatch{session: p.session, mode: set.NAT, conntrack: set.Settings.Conntrack}
	if _, _, err = p.nat.update(); err != nil { // before the programs are attached
		return err
	}
	p.status.setCounters(set.Counters)
	return nil
}

// apply fills the maps, attaches, and only then has the kernel's routes lead to
// where the programs are. What has failed is tried again with the next state;
// the programs are attached even where some record could not be written, for
// the others are served.
func (p *programs) apply(states []topology.State) ([]topology.Problem, error) {
	var err error
	if p.doubted {
		err = p.tables.Reread()
		p.doubted = err != nil
	}
	p.failed = errors.Join(err, p.tables.Apply(states...), p.attach())
	if !p.attached && p.alone() {
		return nil, p.failed // what the routes lead to now may still work
	}
	return p.advance(states)
}

// advance brings the kernel's tables on. What others have left goes once no route leads there.
// What failed in apply is not over with that: it is told with each step.
func (p *programs) advance(states []topology.State) ([]topology.Problem, error) {
	problems, err := p.advanceKernel(states)
	if p.attached && p.unwritten == 0 && err == nil && !p.settled {
		err = p.retireOthers()
		p.settled = err == nil
	}
	return problems, errors.Join(p.failed, err)
}

func (p *programs) sweep() error { return p.tables.Sweep() }

// alone reports whether no device of the kernel's carries what the programs do not.
func (p *programs) alone() bool {
	return p.encap() == topology.EncapIPIP || p.encap() == topology.EncapUDP
}

// inPlace is so before the kernel's tables are complete, where all that the kernel routes into
// the overlay comes by the programs; but not in a change of the dataplane, which ends when
// nothing goes by the other one.
func (p *programs) inPlace() bool {
	covered := p.first().overlay.Ifindex != 0 && !p.choice.pending()
	return p.attached && (p.unwritten == 0 || covered)
}

func (p *programs) doubt() {
	p.attached, p.settled, p.doubted = false, false, true
	p.doubtKernel()
}

func (p *programs) close() error {
	p.status.setCounters(nil)
	return errors.Join(p.sweep(), p.datapath.Close())
}

// attach puts the programs in place, once the maps are filled.
func (p *programs) attach() error {
	if p.attached {
		return nil
	}
	var overlays, fromHost, fromVeth []int
	for _, f := range p.families {
		if f.overlay.Ifindex == 0 {
			continue
		}
		overlays = append(overlays, f.overlay.Ifindex)
		if p.encap() != topology.EncapUDP {
			fromHost = append(fromHost, f.overlay.Ifindex)
		}
		if p.alone() {
			fromVeth = append(fromVeth, f.overlay.PeerIfindex)
		}
	}
	if err := p.clearXDP(); err != nil {
		return err
	}
	if err := p.attachOnly(bpf.FromNetwork, p.uplink.Ifindex); err != nil {
		return err
	}
	if err := p.attachOnly(bpf.FromVeth, fromVeth...); err != nil {
		return err
	}
	if err := p.attachOnly(bpf.FromHost, fromHost...); err != nil {
		return err
	}
	// Last, for it drops what from_network has not marked: what was on its way
	// through the kernel's device before that was attached has to be through.
	maps.WaitForReaders()
	if err := p.attachOnly(bpf.FromOverlay, overlays...); err != nil {
		return err
	}
	p.attachXDP()
	p.attached = true
	return nil
}

// attachOnly has the program on these interfaces and on no others.
func (p *programs) attachOnly(program string, ifindexes ...int) error {
	p.attaching.Lock()
	defer p.attaching.Unlock()
	for _, ifindex := range ifindexes {
		if err := p.datapath.Attach(program, ifindex); err != nil {
			return err
		}
	}
	on, err := p.datapath.Attached(program)
	if err != nil {
		return err
	}
	for _, other := range on {
		if !slices.Contains(ifindexes, other) {
			err = errors.Join(err, p.datapath.Detach(program, other))
		}
	}
	return err
}
