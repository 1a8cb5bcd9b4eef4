// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * tc egress of bpfnet0: what the kernel routed into the overlay, from this node itself or from a
 * container whose packet took the kernel path. The kernel has taken the hop off the TTL already.
 */
#include "include/send.h"

static __always_inline enum reason walk_from_host(struct walk *w)
{
	struct packet p;
	struct host *host;
	int reason = packet_read(w, &p);

	if (reason != ONWARD)
		return reason;
	reason = remote_host(p.ip->daddr, &host);
	if (reason != ONWARD)
		return reason;
	/* The peer would drop it: say so here, where the cause is. */
	if (!addr_is_ipv4(&config.node, p.ip->saddr) && route_lookup(p.ip->saddr) != HOST_SELF)
		return DROP_NODE_SOURCE;
	return send(w, &p, host, 0);
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_HOST);

	enum reason reason = walk_from_host(&w);

	/* The kernel has a tunnel device there in VXLAN networks alone: elsewhere a passed packet is lost. */
	if (!config.vxlan_port && REASON_IS_PASS(reason))
		reason = DROP_UNSENDABLE;
	return verdict(&w, reason);
}
