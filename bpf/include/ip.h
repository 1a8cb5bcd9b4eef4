/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the headers of IPv4 and IPv6 have in common. The version is a constant wherever it is asked
 * for: the programs branch on it once, at their start, and each has its own code from there on. That of
 * IPv6 is out of line, lest the compiler make one of the two again.
 */
#ifndef BPFNET_IP_H
#define BPFNET_IP_H

#include "maps.h"

enum version {
	IPV4 = 4,
	IPV6 = 6,
};

static __always_inline const volatile struct family *family(enum version v)
{
	return v == IPV4 ? &config.ipv4 : &config.ipv6;
}

static __always_inline __be16 ethertype(enum version v)
{
	return v == IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
}

/* Of the fixed part, bytes. */
static __always_inline __u32 ip_header_len(enum version v)
{
	return v == IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* Of the whole packet, bytes. */
static __always_inline __u32 ip_len(enum version v, const void *ip)
{
	return v == IPV4 ? bpf_ntohs(((const struct iphdr *)ip)->tot_len)
			 : bpf_ntohs(((const struct ipv6hdr *)ip)->payload_len) +
				   sizeof(struct ipv6hdr);
}

/* What follows the header: of IPv6 perhaps an extension header. */
static __always_inline __u8 ip_protocol(enum version v, const void *ip)
{
	return v == IPV4 ? ((const struct iphdr *)ip)->protocol
			 : ((const struct ipv6hdr *)ip)->nexthdr;
}

static __always_inline __u8 ip_ttl(enum version v, const void *ip)
{
	return v == IPV4 ? ((const struct iphdr *)ip)->ttl : ((const struct ipv6hdr *)ip)->hop_limit;
}

/* TOS, or traffic class: DSCP and ECN. */
static __always_inline __u8 ip_tos(enum version v, const void *ip)
{
	return v == IPV4 ? ((const struct iphdr *)ip)->tos : bpf_ntohs(*(const __be16 *)ip) >> 4;
}

/* Addresses, as they stand in the packet: 4 or 16 bytes. */
static __always_inline const __be32 *ip_src(enum version v, const void *ip)
{
	return v == IPV4 ? &((const struct iphdr *)ip)->saddr
			 : ((const struct ipv6hdr *)ip)->saddr.word;
}

static __always_inline const __be32 *ip_dst(enum version v, const void *ip)
{
	return v == IPV4 ? &((const struct iphdr *)ip)->daddr
			 : ((const struct ipv6hdr *)ip)->daddr.word;
}

/* As the maps have it. */
static __always_inline struct addr addr_of(enum version v, const __be32 *ip)
{
	return v == IPV4 ? (struct addr){ .word = { 0, 0, bpf_htonl(0xffff), ip[0] } }
			 : (struct addr){ .word = { ip[0], ip[1], ip[2], ip[3] } };
}

/* volatile for the settings: to the compiler they are constants, and zero, by any other pointer. */
static __always_inline int addr_is(const volatile struct addr *a, enum version v, const __be32 *ip)
{
	if (v == IPV4)
		return a->word[3] == ip[0] && a->word[2] == bpf_htonl(0xffff) && !a->word[1] &&
		       !a->word[0];
	return a->word[3] == ip[3] && a->word[2] == ip[2] && a->word[1] == ip[1] &&
	       a->word[0] == ip[0];
}

/*
 * Whether it is this node's own. A node with no address of that version is not at ::, the place of none in the
 * settings, and no address that packets are sent to or from begins with zeros.
 */
static __always_inline int is_own(enum version v, const __be32 *ip)
{
	return (v == IPV4 || ip[0]) && addr_is(&family(v)->node, v, ip);
}

/* IPv4 in IPv6's form (RFC 4291, 2.5.5.2): on the wire it is nobody's address. */
static __always_inline int addr_is_mapped(const struct addr *a)
{
	return a->word[2] == bpf_htonl(0xffff) && !a->word[1] && !a->word[0];
}

/* What a router has to read: IP options, hop-by-hop options. */
static __always_inline int has_options(enum version v, const void *ip)
{
	return v == IPV4 ? ((const struct iphdr *)ip)->ihl != 5
			 : ((const struct ipv6hdr *)ip)->nexthdr == IPPROTO_HOPOPTS;
}

static __always_inline int is_fragment(enum version v, const void *ip)
{
	return v == IPV4 ? ((const struct iphdr *)ip)->frag_off & bpf_htons(IP_MF | IP_OFFSET)
			 : ((const struct ipv6hdr *)ip)->nexthdr == IPPROTO_FRAGMENT;
}

#endif
