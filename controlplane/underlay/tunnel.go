// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// pmtuPause bounds how often PathMTU is called, for anybody can send ICMP errors.
const pmtuPause = time.Second

// TunnelEvents are what [ListenTunnel] tells of, one at a time each, both at once.
type TunnelEvents struct {
	// PathMTU: a router has said that a tunnel packet was too big for it, so that a path's MTU is another
	// now ([PathTo]). Also called as soon as anybody listens.
	PathMTU func()
	// Whole: the kernel has put a tunnel packet together whose first fragment is marked. inner is what it
	// carried, valid until Whole returns, tos the outer header's TOS octet, or traffic class.
	Whole func(inner []byte, tos byte)
}

// ListenTunnel stands in for the device that an ipip or udp tunnel of our programs
// does not have: with a socket of its protocol the kernel
//
//   - learns the MTUs that routers tell. It takes an ICMP error in only if a socket could have sent the packet
//     it is about (icmp_unreach, net/ipv4/icmp.c; icmpv6_notify, net/ipv6/icmp.c), and those of our programs have none;
//   - puts fragments of tunnel packets together, which a program cannot, and has somebody to give them to. Only
//     packets with all bits of mark are taken: the kernel gives the whole packet the first fragment's mark.
//
// node is one of this node's outer addresses, with the tunnel's port. An ipip tunnel
// carries both families over either. VXLAN's device is there, and over IPv4 its packets may be
// cut; over IPv6, of which no router cuts a packet, it takes the errors in
// (__udp6_lib_err_encap, net/ipv6/udp.c) but tells nobody. Where nothing is to be
// heard PathMTU is not called. It returns nil when ctx is done. The network
// namespace is that of the calling thread.
func ListenTunnel(ctx context.Context, encap topology.Encap, node netip.AddrPort, mark uint32, on TunnelEvents) (err error) {
	learnt := make(chan struct{}, 1)
	tell := func() {
		select {
		case learnt <- struct{}{}:
		default: // not told of the last one yet
		}
	}
	var one sync.Mutex
	whole := func(inner []byte, tos byte) {
		one.Lock()
		defer one.Unlock()
		on.Whole(inner, tos)
	}
	var open []*socket
	defer func() {
		for _, s := range open {
			s.conn.Close() //nolint:errcheck // nothing was written
		}
	}()
	for _, s := range tunnelSockets(encap, node, mark, whole, tell) { // here, for threads have namespaces of their own
		if err := s.open(ctx); err != nil {
			return fmt.Errorf("listen for tunnel packets: %w", err)
		}
		open = append(open, s)
	}
	if len(open) == 0 {
		<-ctx.Done()
		return nil
	}
	tell()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return tellPathMTU(ctx, learnt, on.PathMTU) })
	for _, s := range open {
		g.Go(func() error { return s.read(ctx, tell) })
	}
	return g.Wait()
}

// tunnelSockets are those that stand in for a tunnel at an address.
func tunnelSockets(encap topology.Encap, node netip.AddrPort, mark uint32, whole func([]byte, byte), tooBig func()) []*socket {
	v6, host := node.Addr().Is6(), node.Addr().String()
	marked := func(fd int) error { return errors.Join(takeMarked(fd, mark), takeErrors(fd, v6)) }
	switch {
	case encap == topology.EncapIPIP && v6:
		return []*socket{ // which get what follows the IPv6 header
			{network: rawSocket(6, unix.IPPROTO_IPIP), address: host, prepare: marked, data: whole},
			{network: rawSocket(6, unix.IPPROTO_IPV6), address: host, prepare: marked, data: whole},
		}
	case encap == topology.EncapIPIP:
		payload := func(p []byte, _ byte) { ipv4Payload(p, whole) }
		return []*socket{
			{network: rawSocket(4, unix.IPPROTO_IPIP), address: host, prepare: marked, data: payload},
			{network: rawSocket(4, unix.IPPROTO_IPV6), address: host, prepare: marked, data: payload},
		}
	case encap == topology.EncapUDP:
		return []*socket{{network: "udp4", address: node.String(), prepare: marked, data: whole}}
	case encap == topology.EncapVXLAN && v6:
		return []*socket{{
			network: rawSocket(6, unix.IPPROTO_ICMPV6), address: host, prepare: takePacketTooBig,
			data: func([]byte, byte) { tooBig() },
		}}
	}
	return nil
}

func rawSocket(version, protocol int) string { return fmt.Sprintf("ip%d:%d", version, protocol) }

// ipv4Payload: a raw socket of IPv4 gets the outer header as well (raw(7)).
func ipv4Payload(p []byte, whole func([]byte, byte)) {
	if len(p) == 0 {
		return
	}
	if header := int(p[0]&0xf) * 4; header <= len(p) {
		whole(p[header:], p[1])
	}
}

func tellPathMTU(ctx context.Context, learnt <-chan struct{}, tell func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-learnt:
		}
		tell()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pmtuPause):
		}
	}
}
