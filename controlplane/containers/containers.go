// SPDX-License-Identifier: Apache-2.0

// Package containers finds this node's containers from what the kernel says
// over rtnetlink, without being told by a container runtime. Container links are the veths that are ports of the node's bridge,
// and the veths that carry a host route into the node's subnet (as Calico routes
// to its workloads). Their addresses come from the neighbour tables and, behind
// a bridge, from its forwarding database (FDB).
//
// Where an address lives is decided as the kernel would decide it: a host route
// goes before the connected subnet of a bridge, a lower metric before a higher
// one, the entry learned last before an older one.
//
// IPv6 says as much as IPv4: a container that wants its gateway's MAC tells its
// own, for the address that it sends from. One that it is still detecting
// duplicates of it does not tell (RFC 4861, 7.1.1), so that is not found before
// it is the container's. Link-local addresses lie in no subnet.
//
// Packets that take the eBPF fast path are not seen by the bridge, so its FDB
// entry ages out and the neighbour entry may be collected while the container
// is well. Forgetting is therefore no news: an endpoint stays until its link is
// out of service or the kernel has learned something else. So that it does,
// Watch now and then has it ask the containers for their addresses.
package containers

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Endpoint is one container address on this node and how a frame is handed to it.
type Endpoint struct {
	Addr    netip.Addr
	Ifindex int          // host end of the container's link
	MAC     topology.MAC // the container's own
	Gateway topology.MAC // what it sends to: the MAC of the bridge, or of a routed veth's host end, as the container knows it
}

// Link is the host end of a container's veth pair.
type Link struct {
	Ifindex int
	Name    string
}

// State is all that is known of this node's containers: always the whole truth,
// never a difference.
type State struct {
	Links     []Link     // sorted by Ifindex
	Endpoints []Endpoint // sorted by Addr, one per address
}

func (s State) equal(t State) bool {
	return slices.Equal(s.Links, t.Links) && slices.Equal(s.Endpoints, t.Endpoints)
}

// Options say what Watch looks for.
type Options struct {
	// Subnets are the node's own container subnets, one a family.
	Subnets []netip.Prefix
	// Ignore holds names of interfaces that are neither container links nor
	// the node's bridge, whatever they look like.
	Ignore []string
	// Known holds endpoints learned earlier, such as those a restarted daemon
	// finds in its pinned maps. Each is kept if its link is in service and the
	// kernel says nothing else of it.
	Known []Endpoint
	// Logger may be nil.
	Logger *slog.Logger
}
