// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Dataplane names who carries the containers' packets.
type Dataplane string

// The dataplanes: our programs, with the kernel's own tables beside them; or the
// kernel's own devices alone, as flanneld sets them up.
const (
	EBPF    Dataplane = "ebpf"
	Netlink Dataplane = "netlink"
)

// ParseDataplane reads a name.
func ParseDataplane(s string) (Dataplane, error) {
	if d := Dataplane(s); d == EBPF || d == Netlink {
		return d, nil
	}
	return "", fmt.Errorf("dataplane %q: ebpf or netlink", s)
}

// carrier is what the overlay device has to be for it.
func (d Dataplane) carrier() netlink.Carrier {
	if d == Netlink {
		return netlink.Kernel
	}
	return netlink.Programs
}

// dataplane carries a session's packets. While it is brought into place the one
// before carries on; what that has left is removed once nothing goes by it.
type dataplane interface {
	// apply brings it to the desired states, one a family, and writes only what differs.
	// A peer that cannot be served is a problem; the others are served. In a large cluster
	// the kernel's tables are brought there in steps, of which it takes the first.
	apply(states []topology.State) ([]topology.Problem, error)
	// advance goes on with what apply, or advance, has left for later: session.unwritten.
	advance(states []topology.State) ([]topology.Problem, error)
	// sweep removes what apply has left for packets on their way. Nothing can be applied
	// for some 10 ms, so it is for when nothing has changed for a while.
	sweep() error
	// inPlace reports whether packets go by it, and by it alone.
	inPlace() bool
	// doubt has the next apply look at everything again: others may have
	// removed what is ours.
	doubt()
	// doubtKernel is doubt of the kernel's routes, neighbours and FDB alone.
	doubtKernel()
	// serve does what goes on beside apply, once in place, and calls ready
	// when everything is served. It returns when ctx ends.
	serve(ctx context.Context) error
	close() error
}

// openDataplane makes the session's dataplane; no packet goes by it yet.
func (s *session) openDataplane() (dataplane, error) {
	if s.kind == Netlink {
		for _, source := range []string{"nat", "containers", "xdp", "xdp attach"} { // of the programs alone
			s.reporter.report(source, nil)
		}
		s.status.update(func(now *Status) { now.Containers, now.Endpoints, now.XDP = 0, 0, nil })
		return &kernelDevices{session: s}, nil
	}
	p, err := openPrograms(s)
	if err != nil {
		return nil, err // not a nil *programs in an interface that is none
	}
	return p, nil
}

// retireOthers removes what other dataplanes and modes have left.
func (s *session) retireOthers() error {
	if !s.usesTunnel() {
		s.endTunnel()
	}
	var overlays []netlink.Device
	for _, f := range s.families {
		overlays = append(overlays, f.overlay, f.kernel.Across())
	}
	s.retireFamily()
	return netlink.RemoveOthers(overlays...)
}
