// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"

	"github.com/bpfnet/bpfnet/controlplane/containers"
	"github.com/bpfnet/bpfnet/controlplane/headroom"
)

// ensureHeadroom has the bridges of this node's containers ask for headroom, where
// that is asked for, and else takes away what a daemon that was asked to has left.
func (s *session) ensureHeadroom(ctx context.Context) {
	var bridges []int
	var changed bool
	var err error
	if s.BridgeHeadroom {
		bridges, err = containers.Bridges(ctx, s.subnets(), ignored(s.uplink.Name))
	}
	if err == nil {
		changed, err = headroom.Ensure(bridges...)
	}
	s.reporter.report("bridge headroom", err)
	if changed {
		s.log.Info("changed which bridges ask their ports for headroom", "ifindexes", bridges)
	}
}
