/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading packets: a cursor that checks bounds once a header and moves on. */
#ifndef BPFNET_PARSE_H
#define BPFNET_PARSE_H

#include "kernel.h"
#include "reasons.h"

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

/*
 * The IPv4 header at the cursor; room is what the packet holds from there on, in bytes.
 * NULL where ip_rcv_core() of net/ipv4/ip_input.c would refuse it too (checksum aside). The
 * cursor is left behind the fixed part: options, if any, are not skipped.
 */
static __always_inline struct iphdr *take_ipv4(struct cursor *c, __u32 room)
{
	struct iphdr *ip = take(c, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return NULL;
	if (bpf_ntohs(ip->tot_len) < ip->ihl * 4 || bpf_ntohs(ip->tot_len) > room)
		return NULL;
	return ip;
}

static __always_inline int has_options(const struct iphdr *ip)
{
	return ip->ihl != 5;
}

static __always_inline int is_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(IP_MF | IP_OFFSET);
}

static __always_inline __u32 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* RFC 1071 over the 20 bytes of a header without options. */
static __always_inline int ipv4_checksum_ok(const struct iphdr *ip)
{
	const __u16 *word = (const __u16 *)ip;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += word[i];
	return csum_fold(sum) == 0xffff;
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
