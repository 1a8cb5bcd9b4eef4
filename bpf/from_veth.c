// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * tc ingress of bpfnet0p: what left this node by bpfnet0, with no offload that a program could not send.
 *
 * In udp networks that is all, routed there by the kernel or by from_container. A receiver of flannel's udp backend
 * may be a process, which gets the inner packet as it is in the datagram. Over a virtual wire that would be with
 * its checksum still to be filled in, or a superpacket of 64 KiB: neither is ever finished inside a tunnel that the
 * kernel knows nothing of. bpfnet0 has no offloads there, so that the kernel does both between its egress
 * and here (validate_xmit_skb() in net/core/dev.c). The backend knows IPv4 alone.
 *
 * In ipip networks it is what from_host could not encapsulate (make_room() in encap.h), cut there.
 */
#include "include/send.h"

static __always_inline int from_veth_of(struct __sk_buff *skb, enum version v)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_VETH, v);
	enum reason reason = send_from_node(&w, CROSSED);

	/* Nobody is behind bpfnet0p, nor for its own multicasts. */
	if (REASON_IS_PASS(reason) && reason != PASS_LINK_SCOPE)
		reason = DROP_UNSENDABLE;
	return verdict(&w, reason);
}

static __noinline int from_veth_ipv6(struct __sk_buff *skb)
{
	return from_veth_of(skb, IPV6);
}

SEC("tc")
int from_veth(struct __sk_buff *skb)
{
	return is_ipv6(skb) ? from_veth_ipv6(skb) : from_veth_of(skb, IPV4);
}
