/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TTL and ECN of a routed, tunnelled packet. */
#ifndef BPFNET_ECN_H
#define BPFNET_ECN_H

#include "checksum.h"

enum {
	ECN_NOT_ECT = 0,
	ECN_ECT_1 = 1,
	ECN_ECT_0 = 2,
	ECN_CE = 3,
	ECN_MASK = 3,
};

static __always_inline void ipv4_decrement_ttl(struct iphdr *ip)
{
	word16 *ttl_protocol = (word16 *)&ip->ttl;
	__u16 before = *ttl_protocol, after = before - 1; /* the TTL is the lower byte, and not 0 */

	*ttl_protocol = after;
	csum_replace(&ip->check, before, after);
}

static __always_inline void ipv4_set_tos(struct iphdr *ip, __u8 tos)
{
	__u16 *version_tos = (__u16 *)ip;
	__u16 before = *version_tos;

	ip->tos = tos;
	csum_replace(&ip->check, before, *version_tos);
}

static __always_inline void ipv6_set_tos(struct ipv6hdr *ip, __u8 tos)
{
	__be16 *version_tos = (__be16 *)ip;

	*version_tos = (*version_tos & bpf_htons(0xf00f)) | bpf_htons(tos << 4);
}

static __always_inline void ip_decrement_ttl(enum version v, void *ip)
{
	if (v == IPV4)
		ipv4_decrement_ttl(ip);
	else
		((struct ipv6hdr *)ip)->hop_limit--;
}

/* What of a header a hop changes: the TTL, the hop limit, and their neighbours, the checksum among them. */
static __always_inline __u32 *ip_hop(enum version v, void *ip)
{
	return v == IPV4 ? (__u32 *)&((struct iphdr *)ip)->ttl
			 : (__u32 *)&((struct ipv6hdr *)ip)->payload_len;
}

static __always_inline void ip_set_tos(enum version v, void *ip, __u8 tos)
{
	if (v == IPV4)
		ipv4_set_tos(ip, tos);
	else
		ipv6_set_tos(ip, tos);
}

/* ECN bits of the outer header: INET_ECN_encapsulate() of include/net/inet_ecn.h, CE goes out as ECT(0). */
static __always_inline __u8 ecn_encapsulate(__u8 inner_tos)
{
	__u8 ecn = inner_tos & ECN_MASK;

	return ecn == ECN_CE ? ECN_ECT_0 : ecn;
}

/*
 * The inner TOS after decapsulation, or -1 where the packet has to be dropped: RFC 6040, 4.2 as
 * __INET_ECN_decapsulate() of include/net/inet_ecn.h has it.
 */
static __always_inline int ecn_decapsulate(__u8 outer_tos, __u8 inner_tos)
{
	__u8 outer = outer_tos & ECN_MASK, inner = inner_tos & ECN_MASK;

	if (inner == ECN_NOT_ECT)
		return outer == ECN_CE ? -1 : inner_tos;
	if (outer == ECN_CE)
		return inner_tos | ECN_CE;
	if (outer == ECN_ECT_1 && inner == ECN_ECT_0)
		return (inner_tos & ~ECN_MASK) | ECN_ECT_1;
	return inner_tos;
}

#endif
