/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The MACs towards a next hop, as the kernel last said. Each few jiffies it is asked again, and one packet goes
 * its way, by bpf_redirect_neigh(): so to it the neighbour is in use, and is resolved, probed and followed as
 * ever, and a MAC that has changed is used no longer than that.
 */
#ifndef BPFNET_NEXTHOP_H
#define BPFNET_NEXTHOP_H

#include "parse.h"

#define NEXT_HOP_JIFFIES 2 /* 4 to 8 ms at CONFIG_HZ=250, 10 to 20 at 100 */

/*
 * What the kernel says of a next hop now. It is known where it is a neighbour by the kernel's routes too: with a gateway in
 * between they say that one's address, perhaps of IPv6. Kernels without "bpf: bpf_fib_lookup
 * should not return neigh in NUD_FAILED state" (6.3) say of a neighbour that is being resolved that its MAC is zero.
 */
static __noinline void next_hop_ask(struct __sk_buff *skb, struct next_hop *hop)
{
	struct bpf_fib_lookup fib = { .family = AF_INET,
				      .ifindex = hop->ifindex,
				      .ipv4_dst = hop->addr };
	const word16 *mac = (const word16 *)fib.dmac;
	long answer = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);

	__builtin_memcpy(hop->macs, fib.dmac, sizeof(fib.dmac));
	__builtin_memcpy(hop->macs + sizeof(fib.dmac), fib.smac, sizeof(fib.smac));
	hop->known = answer == BPF_FIB_LKUP_RET_SUCCESS && fib.family == AF_INET &&
		     fib.ifindex == hop->ifindex && fib.ipv4_dst == hop->addr &&
		     (mac[0] | mac[1] | mac[2]);
	hop->asked = bpf_jiffies64();
}

/*
 * The next hop where its MACs are known, or NULL: the kernel is to send this packet. The first packet in a while
 * only takes the place, so that neither many next hops that share places, nor packets of which few come, cost a question each.
 */
static __always_inline const struct next_hop *next_hop_known(struct __sk_buff *skb, __u32 ifindex,
							     __be32 addr)
{
	__u32 key = bpf_ntohl(addr) % NEXT_HOP_SLOTS, now = bpf_jiffies64(), age;
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &key);
	int same;

	if (!hop)
		return NULL;
	same = hop->addr == addr && hop->ifindex == ifindex;
	age = now - hop->asked;
	if (likely(same && age < NEXT_HOP_JIFFIES))
		return hop->known ? hop : NULL;
	if (same && age < 2 * NEXT_HOP_JIFFIES)
		next_hop_ask(skb, hop);
	else
		*hop = (struct next_hop){ .addr = addr,
					  .ifindex = ifindex,
					  .asked = now - NEXT_HOP_JIFFIES };
	return NULL;
}

#endif
