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

/* What conntrack says of a TCP or UDP packet; l4 is its transport header. */
static __always_inline int conntrack_check(struct walk *w, const struct iphdr *ip, const __be16 *l4)
{
	struct bpf_sock_tuple tuple = {
		.saddr = ip->saddr,
		.daddr = ip->daddr,
		.sport = l4[0],
		.dport = l4[1],
	};
	struct bpf_ct_opts opts = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = ip->protocol };
	struct nf_conn *ct;
	unsigned long status;

	ct = bpf_skb_ct_lookup(w->skb, &tuple, sizeof(tuple), &opts, sizeof(opts));
	if (!ct)
		return opts.error == -ENOENT ? ONWARD : PASS_NAT_UNKNOWN;
	status = ct->status;
	bpf_ct_release(ct);
	return status & IPS_NAT_MASK ? PASS_NAT : ONWARD;
}

/*
 * ONWARD for a packet of a connection that is not translated; c stands behind the fixed part of the IP
 * header, which has no options. Later fragments have no ports, ICMP errors concern another packet, and
 * conntrack is asked for TCP and UDP alone: all that goes to the kernel.
 */
static __always_inline int nat_check(struct walk *w, const struct iphdr *ip, struct cursor c)
{
	__u32 key = 0;
	enum nat_mode *who = bpf_map_lookup_elem(&nat, &key);
	const __be16 *ports;

	if (likely(who && *who == NAT_NONE))
		return ONWARD;
	ports = take(&c, 2 * sizeof(*ports));
	if (!config.conntrack || !who || *who != NAT_CONNTRACK || is_fragment(ip) || !ports ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return PASS_NAT_UNKNOWN;
	return conntrack_check(w, ip, ports);
}

#endif
