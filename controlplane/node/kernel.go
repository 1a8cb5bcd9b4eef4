// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// kernelDevices is the dataplane of the kernel's own devices: routes,
// neighbours and FDB, and the userspace copy in a udp network.
type kernelDevices struct {
	*session
	settled bool // no program is attached, no other device stands
}

func (k *kernelDevices) apply(states []topology.State) ([]topology.Problem, error) {
	if k.usesTunnel() {
		k.tunnel.setPeers(states[0])
	}
	return k.advance(states)
}

func (k *kernelDevices) advance(states []topology.State) ([]topology.Problem, error) {
	problems, err := k.advanceKernel(states)
	if err != nil || k.unwritten > 0 || k.settled {
		return problems, err
	}
	// The programs go only now that the kernel can do without them.
	if err = k.Unload(); err == nil {
		err = k.retireOthers()
	}
	k.settled = err == nil
	return problems, err
}

// sweep has nothing to do: the kernel keeps what packets on their way go by.
func (k *kernelDevices) sweep() error { return nil }

func (k *kernelDevices) inPlace() bool { return k.settled }

func (k *kernelDevices) doubt() {
	k.settled = false
	k.doubtKernel()
}

// serve has nothing to do: the kernel knows this node's containers.
func (k *kernelDevices) serve(ctx context.Context) error {
	k.ready()
	<-ctx.Done()
	return nil
}

func (k *kernelDevices) close() error { return nil }
