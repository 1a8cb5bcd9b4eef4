/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading packets: a cursor that checks bounds once a header and moves on. */
#ifndef BPFNET_PARSE_H
#define BPFNET_PARSE_H

#include "ip.h"

#define ETH_HLEN sizeof(struct ethhdr)

struct cursor {
	void *pos;
	void *end;
};

/*
 * Puts the cursor at the Ethernet header, with want bytes (or the whole packet, where it is
 * shorter) readable: drivers may leave headers in page fragments, out of a program's reach.
 */
static __always_inline struct cursor cursor_start(struct __sk_buff *skb, __u32 want)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };

	if (unlikely(c.pos + want > c.end && c.end - c.pos < skb->len)) {
		bpf_skb_pull_data(skb, want < skb->len ? want : skb->len);
		c.pos = (void *)(long)skb->data;
		c.end = (void *)(long)skb->data_end;
	}
	return c;
}

/* The next len bytes, or NULL where the packet is shorter. */
static __always_inline void *take(struct cursor *c, __u32 len)
{
	void *header = c->pos;

	if (unlikely(header + len > c->end))
		return NULL;
	c->pos += len;
	return header;
}

/* Of a sum of 16-bit words: RFC 1071. */
static __always_inline __u32 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* A header without options; by words of 32 bits, whose halves are summed up in the end. */
static __always_inline int ipv4_checksum_ok(const struct iphdr *ip)
{
	const word32 *word = (const word32 *)ip;
	__u64 sum = 0;

	for (int i = 0; i < 5; i++)
		sum += word[i];
	return csum_fold((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32)) == 0xffff;
}

/*
 * The IPv4 header at the cursor; room is what the packet holds from there on, in bytes.
 * NULL where ip_rcv_core() of net/ipv4/ip_input.c would refuse it too, for its checksum say; but that of a
 * header with options, which all leave to the kernel, is not looked at. The cursor is left behind the fixed part:
 * options, if any, are not skipped.
 */
static __always_inline struct iphdr *take_ipv4(struct cursor *c, __u32 room)
{
	struct iphdr *ip = take(c, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return NULL;
	if (bpf_ntohs(ip->tot_len) < ip->ihl * 4 || bpf_ntohs(ip->tot_len) > room)
		return NULL;
	return ip->ihl > 5 || ipv4_checksum_ok(ip) ? ip : NULL;
}

/*
 * Likewise the IPv6 header, as ip6_rcv_core() of net/ipv6/ip6_input.c. That refuses an IPv4 address
 * in IPv6's form as the source; to the maps it would be IPv4's own. A jumbogram's length is 0 here
 * (RFC 2675), which is never that of a packet.
 */
static __always_inline struct ipv6hdr *take_ipv6(struct cursor *c, __u32 room)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));
	struct addr src, dst;

	if (!ip || ip->version != 6 || ip_len(IPV6, ip) > room)
		return NULL;
	src = addr_of(IPV6, ip->saddr.word);
	dst = addr_of(IPV6, ip->daddr.word);
	return addr_is_mapped(&src) || addr_is_mapped(&dst) ? NULL : ip;
}

static __always_inline void *take_ip(enum version v, struct cursor *c, __u32 room)
{
	return v == IPV4 ? (void *)take_ipv4(c, room) : (void *)take_ipv6(c, room);
}

/*
 * What concerns one link alone, and is never routed: multicast and link-local addresses (RFC 4291,
 * 2.5.6 and 2.7), and neighbour discovery between any addresses. c stands behind the IP header.
 */
static __always_inline int is_link_scope(const struct ipv6hdr *ip, struct cursor c)
{
	const __u8 *type = c.pos;

	if ((ip->daddr.word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
	    (ip->daddr.word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	    (ip->saddr.word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return true;
	return ip->nexthdr == IPPROTO_ICMPV6 && (const void *)(type + 1) <= c.end &&
	       *type >= NDISC_FIRST && *type <= NDISC_LAST;
}

/* As few loads and stores as so many bytes take, an even number known to the compiler. */
static __always_inline void words_copy(void *to, const void *from, __u32 len)
{
	__u32 at = 0;

	for (; at + 8 <= len; at += 8)
		*(word64 *)(to + at) = *(const word64 *)(from + at);
	for (; at + 4 <= len; at += 4)
		*(word32 *)(to + at) = *(const word32 *)(from + at);
	for (; at + 2 <= len; at += 2)
		*(word16 *)(to + at) = *(const word16 *)(from + at);
}

/* From the first 6 bytes of a word in memory. */
static __always_inline void mac_write(__u8 *to, __u64 mac)
{
	*(word32 *)to = mac;
	*(word16 *)(to + 4) = mac >> 32;
}

static __always_inline void mac_copy(__u8 *to, const volatile __u8 *from)
{
	for (int i = 0; i < 6; i++)
		to[i] = from[i];
}

static __always_inline int mac_equal(const __u8 *a, const volatile __u8 *b)
{
	return *(const __u16 *)a == *(const volatile __u16 *)b &&
	       *(const __u16 *)(a + 2) == *(const volatile __u16 *)(b + 2) &&
	       *(const __u16 *)(a + 4) == *(const volatile __u16 *)(b + 4);
}

#endif
