// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// Injector brings inner packets in by the overlay device, as from_network does
// that takes them out of a tunnel: the node's stack takes them where they belong.
// Their senders have to have been checked. Not for concurrent use.
type Injector struct {
	fd    int
	frame []byte
}

// OpenInjector sends by the far end of a veth, by its interface number, to the
// overlay device, by its MAC. The network namespace is that of the calling thread.
func OpenInjector(peer int, mac topology.MAC) (*Injector, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", os.NewSyscallError("socket", err))
	}
	err = errors.Join(
		os.NewSyscallError("SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, maps.MarkChecked)),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: peer})),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up packet socket: %w", err), unix.Close(fd))
	}
	// From nobody: the kernel routes it, and does not look.
	return &Injector{fd, append(mac[:], make([]byte, ethLen-len(mac))...)}, nil
}

// Inject sends one IP packet, of the version that it says itself. The error is EMSGSIZE where it is
// bigger than the device's MTU.
func (i *Injector) Inject(packet []byte) error {
	i.frame = append(i.frame[:ethLen], packet...)
	etherType := uint16(unix.ETH_P_IP)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		etherType = unix.ETH_P_IPV6
	}
	binary.BigEndian.PutUint16(i.frame[ethLen-2:], etherType)
	if err := unix.Sendto(i.fd, i.frame, 0, nil); err != nil {
		return fmt.Errorf("send packet of %d bytes to bpfnet0: %w", len(packet), err)
	}
	return nil
}

// Close closes the socket.
func (i *Injector) Close() error { return unix.Close(i.fd) }
