// SPDX-License-Identifier: Apache-2.0

//go:build root && !vm

package e2e

import (
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// switchable are the backends that the kernel has devices for, in both
// dataplanes: all but ipip, which only some kernels have (ipip_vm_test.go).
var switchable = []topology.Encap{topology.EncapVXLAN, topology.EncapUDP, topology.EncapNone}

// dualBackends are those that carry IPv6 too.
var dualBackends = []topology.Encap{topology.EncapVXLAN, topology.EncapNone}

// ipipSites of TestMatrix need those devices.
var ipipSites []site

// TestSwitchRefused: what the kernel cannot do leaves everything as it was.
func TestSwitchRefused(t *testing.T) {
	l := serve(t, func(o *lab.Options) { o.Backend = topology.EncapIPIP })
	h := l.Hosts[0]
	there, back := crossing(t, l.Hosts[0], l.Hosts[1])
	_, err := h.NS.Run(t.Context(), bpfnetBinary, "--run-dir", h.Dir, "dataplane", "set", "netlink")
	if err == nil {
		t.Error("netlink ipip was accepted by a kernel without an ipip device")
	}
	t.Log(err)
	if got := bpfnet(t, h, "dataplane", "get"); got != "ebpf\n" {
		t.Errorf("the dataplane is %q", got)
	}
	there.more(100)
	there.intact()
	back.intact()
}
