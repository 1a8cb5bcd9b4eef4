// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
)

// chooseXDP decides about XDP on the uplink and writes what from_wire and
// from_network have to know of it into the settings.
func (p *programs) chooseXDP(settings *bpf.DatapathSettings) error {
	link, err := xdp.Look(p.uplink.Ifindex, p.uplink.Name, p.uplink.MAC, p.encap() != topology.EncapNone)
	if err != nil {
		return err
	}
	want := p.XDP
	if p.encap() != topology.EncapIPIP {
		want.CPUs = nil // NICs hash the source ports of the others
	}
	p.xdp, err = xdp.Choose(want, link)
	p.reporter.report("xdp", err)
	p.showXDP(p.xdp)
	if !p.xdp.On() {
		return nil
	}
	settings.UplinkMac.Byte = p.uplink.MAC
	settings.Spread = uint8(copy(settings.Cpu[:], p.xdp.CPUs))
	if p.xdp.Mode == xdp.Native {
		settings.WireMac.Byte = xdp.Mark(p.uplink.MAC)
	}
	return nil
}

// showXDP has the status say what is done, and the log where that is another
// than it said.
func (p *programs) showXDP(now xdp.Choice) {
	p.status.update(func(s *Status) {
		if p.XDP.Mode != xdp.Off && (s.XDP == nil || s.XDP.String() != now.String()) {
			p.log.Info("XDP on the uplink", "uplink", p.uplink.Name, "mode", now.Mode, "why", now.Why, "cpus", now.CPUs)
		}
		s.XDP = &now
	})
}

// clearXDP is the first step of attaching: from_network is going to know the
// packets of the from_wire that is to be, and no other's.
func (p *programs) clearXDP() error {
	p.attaching.Lock()
	defer p.attaching.Unlock()
	if !p.xdp.On() {
		return p.datapath.ClearXDP(0)
	}
	return p.datapath.ClearXDP(p.uplink.Ifindex)
}

// attachXDP is the last step. Without from_wire all is done at tc, so that it
// cannot be attached is no failure; it is tried again when everything is compared.
func (p *programs) attachXDP() {
	now := p.xdp
	var err error
	if now.On() {
		p.attaching.Lock()
		defer p.attaching.Unlock()
		if err = p.datapath.Attach(bpf.FromWire, p.uplink.Ifindex); err != nil {
			now = xdp.Choice{Mode: xdp.Off, Why: err.Error()}
		}
	}
	p.showXDP(now)
	if p.XDP.Mode == xdp.Auto {
		err = nil // the status says it
	}
	p.reporter.report("xdp attach", err)
}
