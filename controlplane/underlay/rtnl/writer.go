// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writerPort is the netlink port that this process writes its peers' entries
// from: the kernel names it in what it announces of them. Its own choice is the
// number of the process, or a negative one.
var writerPort = 0x62<<24 | uint32(os.Getpid())

// DialWriter is Dial for who writes what this process does not need to be told
// of. Of two at a time the second is as any.
func DialWriter() (*Conn, error) {
	c, err := dial(writerPort)
	if errors.Is(err, unix.EADDRINUSE) {
		return Dial()
	}
	return c, err
}

// IgnoreWriter keeps announcements of what the writer did from a socket: those
// of the first synchronisation of a large cluster would be more than it holds.
func IgnoreWriter(socket int) error {
	const port = 12 // nlmsg_pid in struct nlmsghdr
	// In host byte order, which the filter loads as network byte order.
	mine := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, writerPort))
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: port},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: mine, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	}
	err := unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	if err != nil {
		return fmt.Errorf("attach filter to netlink socket: %w", err)
	}
	return nil
}
