// SPDX-License-Identifier: Apache-2.0

//go:build root

package micro

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// runner runs a program, at tc or at XDP, on one packet after another and has the kernel tell how
// long each run took. The library has no call that both takes a context and
// tells the time.
type runner struct {
	attr    testRun
	frame   []byte
	context [contextLen]byte
	pinned  runtime.Pinner
}

// testRun is what BPF_PROG_TEST_RUN takes: union bpf_attr of include/uapi/linux/bpf.h.
type testRun struct {
	prog, verdict          uint32
	frameLen, frameOutLen  uint32
	frame, frameOut        uint64
	repeat, duration       uint32
	contextLen, contextOut uint32
	context, contextOutPtr uint64
	flags, cpu, batch, _   uint32
}

// struct __sk_buff, as far as a test may set it.
const (
	contextLen  = 192
	contextMark = 8
)

func newRunner(p *ebpf.Program, in packet) *runner {
	r := &runner{frame: in.frame}
	*(*uint32)(unsafe.Pointer(&r.context[contextMark])) = in.mark
	r.pinned.Pin(&r.frame[0])
	r.pinned.Pin(r)
	r.attr = testRun{
		prog: uint32(p.FD()), repeat: 1, // the same packet again would be the one that the program has changed
		frameLen: uint32(len(r.frame)), frame: uint64(uintptr(unsafe.Pointer(&r.frame[0]))),
	}
	if p.Type() != ebpf.XDP {
		r.attr.contextLen, r.attr.context = contextLen, uint64(uintptr(unsafe.Pointer(&r.context[0])))
	}
	return r
}

func (r *runner) close() { r.pinned.Unpin() }

// grown is by how many bytes the last run has made the frame longer.
func (r *runner) grown() int { return int(r.attr.frameOutLen) - len(r.frame) }

// run runs the program once and returns its verdict and the nanoseconds it took.
func (r *runner) run() (verdict, ns uint32, err error) {
	const progTestRun = 10 // BPF_PROG_TEST_RUN
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, progTestRun, uintptr(unsafe.Pointer(&r.attr)), unsafe.Sizeof(r.attr))
		switch errno {
		case 0:
			return r.attr.verdict, r.attr.duration, nil
		case unix.EINTR:
			continue
		}
		return 0, 0, fmt.Errorf("run program: %w", errno)
	}
}

// emptyProgram is what a run costs beside a program of that type: two readings of
// the clock and a call.
func emptyProgram(of ebpf.ProgramType) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: of, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
}
