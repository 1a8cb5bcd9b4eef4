/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets that this node's NAT has to see: those of connections whose addresses it translates
 * (kube-proxy's services, Docker's published ports). What makes a connection one of them comes by the
 * kernel's path anyway, for it is for an address that is no container's. Its answers look like any
 * other packet between containers, and conntrack alone can tell.
 */
#ifndef BPFNET_NAT_H
#define BPFNET_NAT_H

#include "verdict.h"

/*
 * Asks conntrack about a packet; end is the packet's. Later fragments have no ports, ICMP errors concern
 * another packet, and conntrack answers for TCP and UDP alone: all that goes to the kernel. Out of
 * line, so that it costs registers only where it is called.
 */
static __noinline int conntrack_check(struct __sk_buff *skb, const struct iphdr *ip, const void *end)
{
	const __be16 *port = (const __be16 *)(ip + 1);
	struct bpf_sock_tuple tuple = { .saddr = ip->saddr, .daddr = ip->daddr };
	struct bpf_ct_opts opts = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = ip->protocol };
	struct nf_conn *ct;
	unsigned long status;

	if (!config.conntrack || (const void *)(port + 2) > end || is_fragment(ip) ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return PASS_NAT_UNKNOWN;
	tuple.sport = port[0];
	tuple.dport = port[1];
	ct = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple), &opts, sizeof(opts));
	if (!ct)
		return opts.error == -ENOENT ? ONWARD : PASS_NAT_UNKNOWN;
	status = ct->status;
	bpf_ct_release(ct);
	return status & IPS_NAT_MASK ? PASS_NAT : ONWARD;
}

/* ONWARD for a packet of a connection that is not translated. The IP header has no options. */
static __always_inline int nat_check(struct walk *w, const struct iphdr *ip, struct cursor c)
{
	__u32 key = 0;
	enum nat_mode *mode = bpf_map_lookup_elem(&nat, &key);

	if (likely(mode && *mode == NAT_NONE))
		return ONWARD;
	if (!mode || *mode != NAT_CONNTRACK)
		return PASS_NAT_UNKNOWN;
	return conntrack_check(w->skb, ip, c.end);
}

#endif
