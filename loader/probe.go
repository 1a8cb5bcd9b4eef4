// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
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

// need is a kernel feature, the first version that has it, and how to tell.
type need struct {
	feature, kernel string
	probe           func() error
}

// needs is every kernel feature the datapath cannot do without.
var needs = []need{
	{"BPF ring buffers", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
	{"LPM tries", "4.11", func() error { return features.HaveMapType(ebpf.LPMTrie) }},
	{"bpf_redirect_peer", "5.10", helper(asm.FnRedirectPeer)},
	{"bpf_redirect_neigh", "5.10", helper(asm.FnRedirectNeigh)},
	{"bpf_skb_adjust_room", "4.13", helper(asm.FnSkbAdjustRoom)},
	{"bpf_csum_level", "5.9", helper(asm.FnCsumLevel)},
	{"BPF_F_ADJ_ROOM_ENCAP_L2_ETH of bpf_skb_adjust_room", "5.13", func() error { return adjustRoom(vxlanAdjust) }},
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

// What from_host pushes for VXLAN: outer IPv4, UDP and VXLAN headers and the
// inner Ethernet header, by flags of include/uapi/linux/bpf.h.
const (
	ethLen      = 14
	vxlanPush   = 20 + 8 + 8 + ethLen
	vxlanAdjust = unix.BPF_F_ADJ_ROOM_FIXED_GSO | unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		unix.BPF_F_ADJ_ROOM_ENCAP_L2_ETH | ethLen<<56 // BPF_F_ADJ_ROOM_ENCAP_L2
	adjRoomMAC = 1 // BPF_ADJ_ROOM_MAC
)

// adjustRoom makes room for VXLAN in a packet with these flags. The verifier
// does not look at them: the helper itself answers EINVAL to a flag that it
// does not know, for each packet (bpf_skb_adjust_room in net/core/filter.c).
func adjustRoom(flags int64) (err error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{ // the context is in R1
			asm.Mov.Imm(asm.R2, vxlanPush),
			asm.Mov.Imm(asm.R3, adjRoomMAC),
			asm.LoadImm(asm.R4, flags, asm.DWord),
			asm.FnSkbAdjustRoom.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	packet := make([]byte, 64)
	packet[12], packet[13] = 0x08, 0x00 // ETH_P_IP
	packet[ethLen] = 0x45               // IPv4, header of 20 bytes
	answer, err := prog.Run(&ebpf.RunOptions{Data: packet})
	switch errno := unix.Errno(-int32(answer)); { // r0 is a negative errno
	case err != nil:
		return err
	case errno == unix.EINVAL:
		return ebpf.ErrNotSupported
	case errno != 0:
		return fmt.Errorf("push VXLAN headers: %w", errno)
	}
	return nil
}
