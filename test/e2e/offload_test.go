// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/lab"
)

// setChecksumOffload is `ethtool -K IFACE tx on|off`. Off, the kernel fills in
// checksums itself before a packet leaves, and with that cuts superpackets too
// (netdev_fix_features of net/core/dev.c).
func setChecksumOffload(t *testing.T, h *lab.Host, iface string, on bool) {
	t.Helper()
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	// struct ifreq of include/uapi/linux/if.h
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], iface)
	noError(t, h.NS.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // a socket for the ioctl alone
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("set checksum offload of %s: %w", iface, errno)
		}
		return nil
	}))
}
