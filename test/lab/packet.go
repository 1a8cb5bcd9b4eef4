// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is a packet as an interface sent or received it. A superpacket is one
// packet, whole.
type Packet struct {
	Time     time.Time
	Outgoing bool   // sent by the interface, not received
	Len      int    // bytes, Ethernet header included (skb->len); of a tunnel's device, which has none, an empty one
	Data     []byte // the first 2048 of them

	VLAN    int // tag that the kernel took out of the packet; 0 if there was none
	GSOSize int // payload of each segment that it stands for, bytes; 0 for a plain packet

	// Partial says that the innermost transport checksum is not complete: it
	// covers CsumStart to the end and lies CsumOffset behind CsumStart. On
	// virtual links it never is.
	Partial               bool
	CsumStart, CsumOffset int
}

const (
	snapLen    = 2048
	vnetHdrLen = 10 // struct virtio_net_hdr (include/uapi/linux/virtio_net.h)
	auxdataLen = 20 // struct tpacket_auxdata (include/uapi/linux/if_packet.h)

	vnetNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
)

// receivePacket reads one packet from a packet socket; EAGAIN if there is none.
func receivePacket(fd int) (Packet, error) {
	buf := make([]byte, vnetHdrLen+snapLen)
	oob := make([]byte, 256)
	for {
		// MSG_TRUNC: n is the packet's length even where buf is shorter (packet(7)).
		n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return Packet{}, fmt.Errorf("receive packet: %w", err)
		case n < vnetHdrLen:
			return Packet{}, fmt.Errorf("receive packet: message of %d bytes is too short", n)
		}
		p := parseVnet(buf[:vnetHdrLen])
		p.Len = n - vnetHdrLen
		p.Data = buf[vnetHdrLen:min(n, len(buf))]
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			p.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
			switch ll.Hatype {
			case unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT:
				p.addEthernet(ll.Protocol)
			}
		}
		return p, p.parseControl(oob[:oobn])
	}
}

// addEthernet puts an Ethernet header without addresses in front of a packet, which
// has none on a tunnel's device. protocol is a __be16.
func (p *Packet) addEthernet(protocol uint16) {
	header := binary.NativeEndian.AppendUint16(make([]byte, 12), protocol)
	p.Data = append(header, p.Data...)
	p.Len += len(header)
	p.CsumStart += len(header)
}

func parseVnet(h []byte) Packet {
	return Packet{
		Partial:    h[0]&vnetNeedsCsum != 0,
		GSOSize:    int(binary.NativeEndian.Uint16(h[4:])),
		CsumStart:  int(binary.NativeEndian.Uint16(h[6:])),
		CsumOffset: int(binary.NativeEndian.Uint16(h[8:])),
	}
}

func (p *Packet) parseControl(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control messages: %w", err)
	}
	for _, m := range messages {
		switch kind := [2]int32{m.Header.Level, m.Header.Type}; {
		case kind == [2]int32{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW} && len(m.Data) >= 16:
			seconds, nanoseconds := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			p.Time = time.Unix(int64(seconds), int64(nanoseconds))
		case kind == [2]int32{unix.SOL_PACKET, unix.PACKET_AUXDATA} && len(m.Data) >= auxdataLen:
			if binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
				p.VLAN = int(binary.NativeEndian.Uint16(m.Data[16:]) & 0xfff)
			}
		}
	}
	return nil
}

// htons is a number as the kernel wants it in a __be16.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
