// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/maps"
)

// caretaker keeps the endpoints of the datapath that an earlier daemon left
// true while this one waits, for etcd most of all: a container may come back on
// another link with the address it had, and packets to the old one are lost.
// It needs no programs: a new container's own packets take the kernel's path.
type caretaker struct {
	stop func()
	done chan struct{}
}

// beginCare starts the caretaker, unless it is at work or has nothing to care for.
func (n *node) beginCare(ctx context.Context, uplink string) {
	if n.caretaker != nil || !n.FastPath {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	c := &caretaker{stop, make(chan struct{})}
	n.caretaker = c
	go func() {
		defer close(c.done)
		err := n.care(ctx, uplink)
		if ctx.Err() != nil || errors.Is(err, maps.ErrNoDatapath) {
			err = nil // told to stop, or nothing is left from before
		}
		n.reporter.report("containers", err)
	}()
}

// endCare stops the caretaker: the maps are the caller's then.
func (n *node) endCare() {
	if n.caretaker == nil {
		return
	}
	n.caretaker.stop()
	<-n.caretaker.done
	n.caretaker = nil
}

// care follows the containers until ctx ends, with nothing but what is pinned.
func (n *node) care(ctx context.Context, uplink string) (err error) {
	set, err := n.AdoptPinned()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	subnets, err := ownSubnets(set)
	if err != nil {
		return err
	}
	endpoints, err := ebpf.NewEndpoints(set, network)
	if err != nil {
		return err
	}
	o := containers.Options{Subnets: subnets, Ignore: ignored(uplink), Known: endpoints.Known(), Logger: n.log}
	return containers.Watch(ctx, o, func(s containers.State) error {
		n.reporter.report("containers", endpoints.Apply(s.Endpoints))
		return nil
	})
}

// ownSubnets are the prefixes whose routes point to this node, one a family.
func ownSubnets(set *maps.Set) (own []netip.Prefix, err error) {
	all, err := set.Routes.All()
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	for _, r := range all {
		if r.Network == network && r.Host == uint32(bpf.DatapathHostIndexHOST_SELF) {
			own = append(own, r.Prefix)
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("find this node's subnet: %w in the pinned routes", maps.ErrNoDatapath)
	}
	return own, nil
}

// ignored are the names of interfaces that are no containers'.
func ignored(uplink string) []string {
	return append(netlink.Names(), uplink)
}
