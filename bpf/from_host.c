// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * tc egress of bpfnet0: what the kernel routed into the overlay, from this node itself or from a
 * container whose packet took the kernel path. The kernel has taken the hop off the TTL already.
 * In udp networks from_veth has its place.
 */
#include "include/send.h"

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_HOST);

	enum reason reason = send_from_node(&w, ROUTED);

	/* The kernel has a tunnel device there in VXLAN networks alone: elsewhere a passed packet is lost. */
	if (!config.vxlan_port && REASON_IS_PASS(reason))
		reason = DROP_UNSENDABLE;
	return verdict(&w, reason);
}
