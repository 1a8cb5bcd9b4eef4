// SPDX-License-Identifier: Apache-2.0

// Package udptun is flannel's udp backend in user space: what the kernel routes
// into a TUN device goes to the peer's node as the payload of a UDP datagram, and
// comes out of the TUN device there. On the wire it is what flanneld's proxy
// (pkg/backend/udp/proxy_amd64.c) sends: the bare IPv4 packet, source and
// destination port the same, outer DF as the path MTU allows, and a hop taken
// off the TTL at each of the two ends, beside the kernel's own hops.
//
// It differs from flanneld's proxy where that falls short:
//
//   - A datagram is taken only from a known node, with an inner source of that
//     node's subnet or the node's own address, for a destination of this node's
//     subnet, and with lengths and header checksum right. Drops are counted by
//     reason; the log has a line when drops of a kind begin.
//   - ICMP errors (network unreachable, time exceeded) go out by a raw socket, so
//     that the kernel chooses the source address by its routes, as for its own.
//     Written to the TUN device they would carry an address of this node as the
//     source of a packet from outside, which the kernel drops as martian. They
//     are limited in rate as the kernel limits its own.
//   - ECN crosses the tunnel as RFC 6040 has it.
//   - Routes are found by the longest prefix, not by the first match.
//   - A send never waits: a node that does not answer ARP holds up no other.
//
// # The device
//
// [Open] creates the device [DeviceName], or adopts it, and leaves it persistent:
// the routes on it outlive the process, so that a packet for another node is
// dropped while nobody copies, and never leaves unencapsulated by the default
// route. (With net.ipv4.conf.*.ignore_routes_with_linkdown the kernel passes over
// such routes; the administrator has then asked for that.) Its address and its
// routes are the caller's. [Remove] deletes it.
//
// Its rp_filter is set to loose (2): the inner source was checked against the
// sending node, and it may lawfully be an address that is routed elsewhere, such
// as the node's own, or every peer's while the routes still lead to another
// dataplane.
//
// # Changing from and to the ebpf dataplane
//
// Both speak the same bytes, so each packet may take either way, as long as the
// new way stands whole before the old one is taken down. To this one:
//
//  1. Open, SetPeers, start Run, give the device its address.
//  2. Replace the routes, in place, by ones on the device: packets now leave by it.
//  3. Detach the programs. Up to here they take the datagrams that arrive off before
//     the socket sees them; from here on the socket gets them.
//
// And back:
//
//  1. Fill the maps and attach the programs: they take what arrives from now on.
//  2. Replace the routes by ones that lead away from the device.
//  3. End Run's context. What had been queued in the device and in the socket is
//     still copied before Run returns (at most [drainMost] packets each way).
//  4. Close, Remove.
//
// Between two tunnels, such as for another port or another subnet, the device
// and the routes stay and packets wait or are lost for the moments in between, as
// when flanneld restarts.
package udptun
