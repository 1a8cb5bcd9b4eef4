// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * tc egress of bpfnet0 and bpfnet0-v6: what the kernel routed into the overlay, from this node itself or from a
 * container whose packet took the kernel path. The kernel has taken the hop off the TTL already.
 * In udp networks from_veth has its place.
 */
#include "include/send.h"

static __always_inline int from_host_of(struct __sk_buff *skb, enum version v)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_HOST, v);
	enum reason reason = send_from_node(&w, ROUTED);

	/*
	 * The kernel has a tunnel device there in VXLAN networks alone: elsewhere a passed packet is lost,
	 * and but for the device's own multicasts that is worth telling. What the kernel has to cut it cuts
	 * on its way through bpfnet0, to from_veth.
	 */
	if (!config.vxlan_port && REASON_IS_PASS(reason) && reason != PASS_LINK_SCOPE &&
	    reason != PASS_NOT_ENCAPSULABLE)
		reason = DROP_UNSENDABLE;
	return verdict(&w, reason);
}

static __noinline int from_host_ipv6(struct __sk_buff *skb)
{
	return from_host_of(skb, IPV6);
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	return is_ipv6(skb) ? from_host_ipv6(skb) : from_host_of(skb, IPV4);
}
