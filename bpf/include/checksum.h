/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Internet checksums (RFC 1071), as sums of 16-bit words in memory order. */
#ifndef BPFNET_CHECKSUM_H
#define BPFNET_CHECKSUM_H

#include "parse.h"

/* Incremental update: RFC 1624, equation 3. */
static __always_inline void csum_replace(__u16 *check, __u16 from, __u16 to)
{
	*check = ~csum_fold((__u16) ~*check + (__u16)~from + to);
}

/* The sum of the first words of b. */
static __always_inline __u32 csum_words(const void *b, int words)
{
	const __u16 *word = b;
	__u32 sum = 0;

	for (int i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

#define TCP_HEADER_MIN 20 /* RFC 9293, 3.1 */
#define ICMP_HEADER_LEN 8 /* RFC 792; RFC 4443, 2.1: 4, and 4 that each type has */

/*
 * Whether a packet has a checksum over all that follows its IP header, the pseudo header besides; c
 * stands behind that IP header, and room bytes of the packet follow c.
 */
static __always_inline int has_checksum(enum version v, const void *ip, struct cursor c)
{
	__u32 len = ip_len(v, ip) - ip_header_len(v);
	const struct udphdr *udp = c.pos;

	if (is_fragment(v, ip) || has_options(v, ip))
		return false;
	switch (ip_protocol(v, ip)) {
	case IPPROTO_TCP:
		return len >= TCP_HEADER_MIN;
	case IPPROTO_UDP:
		return (const void *)(udp + 1) <= c.end && udp->check && bpf_ntohs(udp->len) == len;
	case IPPROTO_ICMP:
		return v == IPV4 && len >= ICMP_HEADER_LEN;
	case IPPROTO_ICMPV6:
		return v == IPV6 && len >= ICMP_HEADER_LEN;
	}
	return false;
}

/*
 * The sum of all words of such a packet, without reading them. What the checksum covers sums up to
 * nothing together with its pseudo header, once the checksum is filled in, be it by a NIC only: lco_csum() of
 * include/linux/skbuff.h reckons likewise. So it is the sum of the IP header less that of the pseudo header.
 */
static __always_inline __u32 packet_sum(enum version v, const void *ip)
{
	__be16 protocol = bpf_htons(ip_protocol(v, ip));
	const __u16 *word = ip;
	__u32 sum;

	if (v == IPV6) /* addresses and length are in both */
		return word[0] + word[1] + word[3] + (__u16)~protocol;
	sum = csum_words(ip, sizeof(struct iphdr) / 2);
	if (ip_protocol(v, ip) == IPPROTO_ICMP) /* has no pseudo header */
		return sum;
	sum += (__u16)~protocol + (__u16)~bpf_htons(ip_len(v, ip) - sizeof(struct iphdr));
	for (int i = 6; i < 10; i++) /* the addresses */
		sum += (__u16)~word[i];
	return sum;
}

#endif
