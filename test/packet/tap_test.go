// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tap sends and receives frames at a device, with what the kernel knows of them beside their bytes
// (packet(7), PACKET_VNET_HDR): so a superpacket goes in and comes out as one.
type tap struct{ fd int }

// vnetHeader is struct virtio_net_hdr of include/uapi/linux/virtio_net.h.
type vnetHeader struct {
	Flags      uint8
	GSOType    uint8
	HeaderLen  uint16
	GSOSize    uint16
	CsumStart  uint16
	CsumOffset uint16
}

// patience is how long a test waits for a packet that has to come.
const patience = 30 * time.Second

const (
	vnetHeaderLen = 10
	needsCsum     = 1
	gsoTCPv4      = 1
	gsoTCPv6      = 4
	gsoUDPL4      = 5
)

func openTap(t *testing.T, ifindex int) *tap {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() {
		if err := unix.Close(fd); err != nil {
			t.Errorf("close packet socket: %v", err)
		}
	})
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	timeout := unix.NsecToTimeval(int64(patience))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bits.ReverseBytes16(unix.ETH_P_ALL), Ifindex: ifindex}))
	return &tap{fd}
}

func (p *tap) send(h vnetHeader, frame []byte) error {
	packet, err := binary.Append(nil, binary.NativeEndian, h)
	if err != nil {
		return err
	}
	if _, err := unix.Write(p.fd, append(packet, frame...)); err != nil {
		return fmt.Errorf("send %d bytes: %w", len(frame), err)
	}
	return nil
}

func (p *tap) receive() (vnetHeader, []byte, error) {
	var h vnetHeader
	packet := make([]byte, vnetHeaderLen+1<<16+256)
	n, err := unix.Read(p.fd, packet)
	if err != nil {
		return h, nil, fmt.Errorf("receive frame: %w", err)
	}
	if n < vnetHeaderLen {
		return h, nil, errors.New("receive frame: no virtio header")
	}
	_, err = binary.Decode(packet, binary.NativeEndian, &h)
	return h, packet[vnetHeaderLen:n], err
}
