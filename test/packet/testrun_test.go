// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testRun is the part of union bpf_attr that BPF_PROG_TEST_RUN has (include/uapi/linux/bpf.h). By cilium/ebpf's
// Program.Run the same takes several times as long, most of it for what it allocates.
type testRun struct {
	program, retval           uint32
	dataLen, outLen           uint32
	data, out                 unsafe.Pointer
	repeat, duration          uint32
	contextLen, contextOutLen uint32
	context, contextOut       unsafe.Pointer
	flags, cpu, batch, _      uint32
}

// runOnce runs a program once. It returns what the program did, and the packet as it left it, in out.
func runOnce(program int, data, out, context, contextOut []byte) (int32, []byte, error) {
	run := testRun{
		program: uint32(program), repeat: 1,
		dataLen: uint32(len(data)), outLen: uint32(len(out)), data: unsafe.Pointer(unsafe.SliceData(data)), out: unsafe.Pointer(unsafe.SliceData(out)),
		contextLen: uint32(len(context)), contextOutLen: uint32(len(contextOut)),
		context: unsafe.Pointer(unsafe.SliceData(context)), contextOut: unsafe.Pointer(unsafe.SliceData(contextOut)),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&run)), unsafe.Sizeof(run))
	if errno != 0 {
		return 0, nil, fmt.Errorf("run program on %d bytes: %w", len(data), errno)
	}
	return int32(run.retval), out[:run.outLen], nil
}
