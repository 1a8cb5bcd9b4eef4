// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/blackhole"
)

// ensureBlackhole drops what is for nobody in this node's subnets, where that is
// asked for, and else takes away the route of a daemon that was asked to.
func (s *session) ensureBlackhole() {
	var subnets []netip.Prefix
	if s.Blackhole {
		subnets = s.subnets()
	}
	changed, err := blackhole.Ensure(subnets...)
	s.reporter.report("blackhole route", err)
	if changed {
		s.log.Info("changed the blackhole routes of this node's subnets", "subnets", s.subnets(), "there", s.Blackhole)
	}
}
