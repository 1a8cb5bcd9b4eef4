/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The MACs towards a next hop, as the kernel last said. Each few jiffies it is asked again, and one packet goes
 * its way, by bpf_redirect_neigh(): so to it the neighbour is in use, and is resolved, probed and followed as
 * ever, and a MAC that has changed is used no longer than that.
 */
#ifndef BPFNET_NEXTHOP_H
#define BPFNET_NEXTHOP_H

#include "parse.h"

#define NEXT_HOP_JIFFIES 2 /* 8 ms at CONFIG_HZ=250, 20 ms at 100 */

/*
 * Asks for a neighbour's MAC, where the next hop is one by the kernel's routes too: with a gateway in between
 * they say that one's. tot_len 0: the size of the packet is no matter here.
 */
static __noinline int next_hop_ask(struct __sk_buff *skb, struct next_hop *hop)
{
	struct bpf_fib_lookup fib = { .family = AF_INET,
				      .ifindex = hop->ifindex,
				      .ipv4_dst = hop->addr };
	long answer = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);

	__builtin_memcpy(hop->macs, fib.dmac, sizeof(fib.dmac));
	__builtin_memcpy(hop->macs + sizeof(fib.dmac), fib.smac, sizeof(fib.smac));
	return answer == BPF_FIB_LKUP_RET_SUCCESS && fib.ifindex == hop->ifindex &&
	       fib.ipv4_dst == hop->addr;
}

/*
 * The next hop where its MACs are known, or NULL: the kernel is to send this packet. The first packet in a while
 * only takes the place, so that many next hops in turn, which share places, cost no question each.
 */
static __always_inline const struct next_hop *next_hop_known(struct __sk_buff *skb, __u32 ifindex,
							     __be32 addr)
{
	__u32 key = bpf_ntohl(addr) % NEXT_HOP_SLOTS, now = bpf_jiffies64();
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &key);

	if (!hop)
		return NULL;
	if (hop->addr != addr || hop->ifindex != ifindex) {
		*hop = (struct next_hop){ .addr = addr,
					  .ifindex = ifindex,
					  .asked = now - NEXT_HOP_JIFFIES };
		return NULL;
	}
	if (likely(now - hop->asked < NEXT_HOP_JIFFIES))
		return hop->known ? hop : NULL;
	hop->asked = now;
	hop->known = next_hop_ask(skb, hop);
	return NULL;
}

#endif
