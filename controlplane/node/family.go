// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/firewall"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// family is what the session's network has of IPv4, or of IPv6.
type family struct {
	prefix    netip.Prefix // the network's
	subnetLen int
	self      topology.Self
	overlay   netlink.Device // zero in a host-gw network
	kernel    netlink.View

	leases leases // loop.mu is for these

	// Of loop.run alone:
	follower topology.Follower
	state    topology.State // built last
	problems []topology.Problem
	lost     bool // the uplink has not this family's address just now
	inKernel inKernel
}

// inKernel is what has become of a family's state in the kernel's tables.
type inKernel struct {
	done      bool // but for what failed
	unwritten int  // peers
	problems  []topology.Problem
	err       error
}

// newFamilies are those that the network has, IPv4 first, but for the subnets.
func (s *session) newFamilies() []*family {
	c, up := s.config, s.uplink
	var all []*family
	if c.EnableIPv4 {
		all = append(all, &family{prefix: c.Network, subnetLen: c.SubnetLen, self: s.newSelf(up.Addr, up.Addr6)})
	}
	if c.EnableIPv6 {
		all = append(all, &family{prefix: c.IPv6Network, subnetLen: c.IPv6SubnetLen, self: s.newSelf(up.Addr6, up.Addr)})
	}
	if c.Backend.Type == topology.EncapIPIP { // of which the families share a device
		for _, f := range all {
			f.self.MTU = min(all[0].self.MTU, all[len(all)-1].self.MTU)
		}
	}
	return all
}

// newSelf is this node in a family of which it has the address node, and other of the other.
func (s *session) newSelf(node, other netip.Addr) topology.Self {
	b := s.config.Backend
	self := topology.Self{Node: node, Uplink: s.uplink.Ifindex, Encap: b.Type, VNI: b.VNI, Port: b.Port}
	outer := node
	if b.Type == topology.EncapIPIP {
		self.Other = other
		if !outer.IsValid() {
			outer = other
		}
	}
	self.MTU = containerMTU(b, s.uplink.MTU, outer)
	return self
}

func (f *family) is6() bool { return f.prefix.Addr().Is6() }

// lease has the family be that of this node's lease.
func (f *family) lease(l store.Lease) {
	own := topologyLease(l, f.is6())
	f.self.Subnet = own.Subnet
	f.self.VTEP = topology.VTEP{MAC: own.MAC, Addr: own.Subnet.Addr()}
}

// addrs are the addresses of this node's that the family's packets are sent from.
func (f *family) addrs() []netip.Addr { return valid(f.self.Node, f.self.Other) }

func valid(addrs ...netip.Addr) (all []netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// topologyLease is what a lease says of one family.
func topologyLease(s store.Lease, v6 bool) topology.Lease {
	t := topology.Lease{
		Key: s.Key, Subnet: s.Subnet, Node: s.PublicIP, Other: s.PublicIPv6, Encap: s.Backend, MAC: s.MAC, VNI: s.VNI,
		Created: s.CreateRevision, Modified: s.ModRevision,
	}
	if v6 {
		t.Subnet, t.Node, t.Other, t.MAC = s.Subnet6, s.PublicIPv6, s.PublicIP, s.MACv6
		t.ZeroChecksum = s.ZeroChecksum6
	}
	return t
}

// first is the network's first family. What does not differ between the two is asked of it.
func (s *session) first() *family { return s.families[0] }

func (s *session) encap() topology.Encap { return s.first().self.Encap }

// mtu is that of containers: flannel tells them IPv4's, where there is that, and
// the kernel tells who sends larger packets of IPv6.
func (s *session) mtu() int { return s.first().self.MTU }

func (s *session) subnets() []netip.Prefix {
	var all []netip.Prefix
	for _, f := range s.families {
		all = append(all, f.self.Subnet)
	}
	return all
}

// kernelStep is how many peers are written to the kernel's tables before it is
// looked whether something has changed: some 30 ms.
const kernelStep = 1000

// advanceKernel makes the kernel's own tables equal to the states, one a family, or as
// far as one step goes: s.unwritten is how many peers are left to the next. A family that
// is through is not looked at again before the next pass.
func (s *session) advanceKernel(states []topology.State) (problems []topology.Problem, err error) {
	s.unwritten = 0
	for i, f := range s.families {
		k := &f.inKernel
		if !k.done {
			k.unwritten, k.problems, k.err = f.kernel.Advance(states[i], f.overlay, netlink.Step{Peers: kernelStep, Cover: s.kind == EBPF})
			k.done = k.unwritten == 0
		}
		problems, err = append(problems, k.problems...), errors.Join(err, k.err)
		s.unwritten += k.unwritten
	}
	return problems, err
}

func (s *session) doubtKernel() {
	for _, f := range s.families {
		f.kernel.Doubt()
	}
}

// ensureOverlays makes the overlay devices; changed: one is another than it was.
func (s *session) ensureOverlays() (changed bool, err error) {
	for _, f := range s.families {
		dev, failed := netlink.EnsureOverlay(f.self, s.kind.carrier())
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		changed = changed || dev != f.overlay
		f.overlay = dev
	}
	return changed, err
}

// retireFamily removes, once a session, the routes and rules of a family that the
// network has no more. That it cannot, on a kernel without IPv6 say, keeps nothing from being served.
func (s *session) retireFamily() {
	if s.retired || len(s.families) > 1 {
		return
	}
	s.retired = true
	gone6 := !s.first().is6()
	if err := errors.Join(netlink.RemoveRoutes(gone6), firewall.RemoveFamily(gone6)); err != nil {
		s.log.Warn("cannot remove what may be left of the address family that the network has not", "IPv6", gone6, "error", err)
	}
}
