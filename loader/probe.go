// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// UnsupportedError says what the datapath needs and this kernel has not.
type UnsupportedError struct {
	Feature string
	Kernel  string // first version that has it
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the datapath needs %s, kernel %s or later", e.Feature, e.Kernel)
}

// Is makes errors.Is(err, ebpf.ErrNotSupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ebpf.ErrNotSupported }

// ErrPermission is the error of a daemon that may not load programs.
var ErrPermission = errors.New("no permission to load eBPF programs: " +
	"run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN (for the bpffs)")

// needs is every kernel feature the datapath cannot do without.
var needs = []struct {
	feature, kernel string
	probe           func() error
}{
	{"BPF ring buffers", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
	{"LPM tries", "4.11", func() error { return features.HaveMapType(ebpf.LPMTrie) }},
	{"bpf_redirect_peer", "5.10", helper(asm.FnRedirectPeer)},
	{"bpf_redirect_neigh", "5.10", helper(asm.FnRedirectNeigh)},
	{"bpf_skb_adjust_room", "4.13", helper(asm.FnSkbAdjustRoom)},
	{"bpf_csum_level", "5.9", helper(asm.FnCsumLevel)},
}

func helper(f asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(ebpf.SchedCLS, f) }
}

// Probe checks that the kernel can run the datapath and that we may load it.
// All that is missing is reported at once.
func Probe() error {
	var missing error
	for _, n := range needs {
		switch err := n.probe(); {
		case errors.Is(err, ebpf.ErrNotSupported):
			missing = errors.Join(missing, &UnsupportedError{n.feature, n.kernel})
		case errors.Is(err, os.ErrPermission):
			return ErrPermission
		case err != nil:
			return fmt.Errorf("probe for %s: %w", n.feature, err)
		}
	}
	return missing
}
