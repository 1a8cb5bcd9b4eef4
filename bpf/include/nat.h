/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets that this node's NAT has to see: those of connections whose addresses it translates
 * (kube-proxy's services, Docker's published ports). What makes a connection one of them comes by the
 * kernel's path anyway, for it is for an address that is no container's. Its answers look like any
 * other packet between containers, and conntrack alone can tell.
 */
#ifndef BPFNET_NAT_H
#define BPFNET_NAT_H

#include "parse.h"
#include "verdict.h"

/* The bytes of the tuple in use: by them the kernel tells the version. */
static __always_inline __u32 tuple_fill(struct bpf_sock_tuple *tuple, enum version v,
					const void *ip, const __be16 *port)
{
	if (v == IPV4) {
		tuple->ipv4.saddr = *ip_src(v, ip);
		tuple->ipv4.daddr = *ip_dst(v, ip);
		tuple->ipv4.sport = port[0];
		tuple->ipv4.dport = port[1];
		return sizeof(tuple->ipv4);
	}
	for (int i = 0; i < 4; i++) {
		tuple->ipv6.saddr[i] = ip_src(v, ip)[i];
		tuple->ipv6.daddr[i] = ip_dst(v, ip)[i];
	}
	tuple->ipv6.sport = port[0];
	tuple->ipv6.dport = port[1];
	return sizeof(tuple->ipv6);
}

/*
 * Asks conntrack about a packet; end is the packet's. Later fragments have no ports, ICMP errors concern
 * another packet, and conntrack answers for TCP and UDP alone: all that goes to the kernel.
 */
static __always_inline int conntrack_check(enum version v, struct __sk_buff *skb, const void *ip,
					   const void *end)
{
	const __be16 *port = ip + ip_header_len(v);
	struct bpf_ct_opts opts = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = ip_protocol(v, ip) };
	struct bpf_sock_tuple tuple;
	struct nf_conn *ct;
	unsigned long status;
	__u32 len;

	if (!config.conntrack || (const void *)(port + 2) > end || is_fragment(v, ip) ||
	    (opts.l4proto != IPPROTO_TCP && opts.l4proto != IPPROTO_UDP))
		return PASS_NAT_UNKNOWN;
	len = tuple_fill(&tuple, v, ip, port);
	ct = bpf_skb_ct_lookup(skb, &tuple, len, &opts, sizeof(opts));
	if (!ct)
		return opts.error == -ENOENT ? ONWARD : PASS_NAT_UNKNOWN;
	status = ct->status;
	bpf_ct_release(ct);
	return status & IPS_NAT_MASK ? PASS_NAT : ONWARD;
}

/* Out of line, so that they cost registers only where they are called. */
static __noinline int conntrack_check_ipv4(struct __sk_buff *skb, const void *ip, const void *end)
{
	return conntrack_check(IPV4, skb, ip, end);
}

static __noinline int conntrack_check_ipv6(struct __sk_buff *skb, const void *ip, const void *end)
{
	return conntrack_check(IPV6, skb, ip, end);
}

/* ONWARD for a packet of a connection that is not translated. The IP header has no options. */
static __always_inline int nat_check(struct walk *w, const void *ip, struct cursor c)
{
	__u32 key = 0;
	enum nat_mode *mode = bpf_map_lookup_elem(&nat, &key);

	if (likely(mode && *mode == NAT_NONE))
		return ONWARD;
	if (!mode || *mode != NAT_CONNTRACK)
		return PASS_NAT_UNKNOWN;
	return w->version == IPV4 ? conntrack_check_ipv4(w->skb, ip, c.end)
				  : conntrack_check_ipv6(w->skb, ip, c.end);
}

#endif
