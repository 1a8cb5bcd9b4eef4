// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/firewall"
)

// Firewall is what becomes of the host's packet filter, in the kernel's path.
type Firewall struct {
	Masquerade  bool          // what containers send out of the network
	RandomFully bool          // with source ports chosen at random
	Forward     bool          // accept the network's packets in the FORWARD chain
	Resync      time.Duration // between two looks at the rules
}

// keepFirewall puts the rules and the blackhole route back that others remove, and has bridges
// that come and go followed, until ctx ends. All stays in place then, as the datapath does.
func (s *session) keepFirewall(ctx context.Context) error {
	tick := time.NewTicker(s.Firewall.Resync)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.ensureFirewall()
			s.ensureBlackhole()
			if s.BridgeHeadroom {
				s.ensureHeadroom(ctx)
			}
		}
	}
}

// ensureFirewall makes the rules what they have to be. That they cannot be made
// keeps nothing else from being served.
func (s *session) ensureFirewall() {
	var changed bool
	var err error
	for _, f := range s.families {
		wrote, failed := firewall.Ensure(firewall.Rules{
			Network: f.prefix, Subnet: f.self.Subnet,
			Masquerade: s.Firewall.Masquerade, RandomFully: s.Firewall.RandomFully, Forward: s.Firewall.Forward,
		})
		changed, err = changed || wrote, errors.Join(err, failed)
	}
	s.reporter.report("firewall", err)
	if changed {
		s.log.Info("wrote the packet filter's rules", "masquerade", s.Firewall.Masquerade, "forward", s.Firewall.Forward)
	}
}
