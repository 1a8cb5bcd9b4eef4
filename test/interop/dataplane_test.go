// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
)

// dataplane is one of bpfnet's.
type dataplane struct {
	name string
	args []string
}

var (
	ebpf       = dataplane{"ebpf", []string{"--dataplane", "ebpf"}}
	kernels    = dataplane{"netlink", []string{"--dataplane", "netlink"}}
	dataplanes = []dataplane{ebpf, kernels}
)

// matrix runs a test in each dataplane and each mode.
func matrix(t *testing.T, modes []mode, test func(t *testing.T, m mode, dp dataplane)) {
	for _, dp := range dataplanes {
		for _, m := range modes {
			t.Run(dp.name+"/"+m.name, func(t *testing.T) { test(t, m, dp) })
		}
	}
}

// kernelHasIPIP asks the kernel for an ipip device; one without an address would
// be the one that the module makes itself.
var kernelHasIPIP = sync.OnceValue(func() bool {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	probe := &netlink.Iptun{LinkAttrs: attrs, Local: net.IPv4(192, 0, 2, 1)} // of RFC 5737
	return netlink.LinkAdd(probe) == nil && netlink.LinkDel(probe) == nil
})

// TestIPIPNeedsTheKernel: without the kernel's ipip there is no flanneld to meet.
// With it, ipip is among the modes of all tests.
func TestIPIPNeedsTheKernel(t *testing.T) {
	if kernelHasIPIP() {
		return
	}
	f := up(t, ipip, kernels, 1).nodes[0].flanneld
	err := f.tryStart(t)
	if log := string(f.log(t)); !errors.Is(err, errEnded) || !strings.Contains(log, "operation not supported") {
		t.Errorf("flanneld in ipip mode: %v\n%s", err, log)
	}
}
