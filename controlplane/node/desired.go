// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
)

// inputs is what is known, one a family, and whether that is everything yet.
func (l *loop) inputs() ([]topology.Input, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []topology.Input
	for _, f := range l.families {
		all = append(all, topology.Input{
			Network: f.prefix, Self: f.self, SelfKey: l.held.Lease().Key, Public: valid(l.uplink.PublicIP, l.uplink.PublicIPv6),
			DirectRouting: l.config.Backend.DirectRouting, Leases: f.leases.all(),
		})
	}
	return all, l.full
}

// pathVia is r.PathTo, asked once a node until the underlay changes.
func (l *loop) pathVia(r *underlay.Resolver) func(netip.Addr) (topology.Path, error) {
	return func(node netip.Addr) (topology.Path, error) {
		if p, ok := l.paths[node]; ok {
			return p, nil
		}
		p, err := r.PathTo(node)
		if err == nil {
			l.paths[node] = p
		}
		return p, err
	}
}

// build makes the desired state of each family, and finds what is wrong with records.
func (l *loop) build(inputs []topology.Input) error {
	r, err := underlay.NewResolver()
	if err != nil {
		return err
	}
	defer r.Close()
	var states []topology.State
	var problems []topology.Problem
	for i, f := range l.families {
		if !f.lost || f.state.Peers == nil {
			inputs[i].Path = l.pathVia(r)
			f.state, f.problems = f.follower.Build(inputs[i])
		}
		f.inKernel = inKernel{}
		states = append(states, f.state)
		problems = append(problems, f.problems...)
	}
	l.states, l.peers, l.problems = states, states[0].Peers, once(problems)
	if len(states) > 1 {
		l.peers = slices.Concat(states[0].Peers, states[1].Peers)
	}
	return nil
}

// once leaves out what is said again: much of what is wrong with a lease is so in both families.
func once(problems []topology.Problem) []topology.Problem {
	said := map[topology.Problem]bool{}
	return slices.DeleteFunc(problems, func(p topology.Problem) bool {
		again := said[p]
		said[p] = true
		return again
	})
}

func (l *loop) badRecords() []topology.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []topology.Problem
	for key, err := range l.bad {
		consequence := "not served: delete it, or restart the node that wrote it"
		if l.first().leases.has(key) {
			consequence = "what it said before is served: restart the node that wrote it"
		}
		all = append(all, topology.Problem{Key: key, Text: err.Error() + "; " + consequence})
	}
	return all
}
