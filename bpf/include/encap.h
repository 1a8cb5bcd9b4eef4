/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Encapsulation, the same for every mode: push the host's finished header, then fill in what only
 * the packet knows (lengths, IP ID, ECN, source port, checksum).
 */
#ifndef BPFNET_ENCAP_H
#define BPFNET_ENCAP_H

#include "ecn.h"
#include "parse.h"
#include "types.h"

#define TCP_HEADER_READ 13    /* up to and with the data offset (RFC 9293, 3.1) */
#define HEADERS_MAX (60 + 60) /* IP with all options, TCP with all of its */
#define GSO_BY_FRAGS 0xffff   /* include/linux/skbuff.h: SCTP's segments have sizes of their own */

/* What encapsulation has to know of the inner packet. */
struct inner {
	__u32 len;	  /* of the IP packet, bytes; a superpacket's whole length */
	__u32 header_len; /* IP and transport header, what each GSO segment repeats; at least that */
	__u32 flow;	  /* hash: equal for all packets of a flow */
	__u8 tos;
	__u8 ttl;
	__be16 frag_off;
};

/* murmur3's finaliser: every input bit moves every output bit. */
static __always_inline __u32 mix(__u32 h)
{
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ (h >> 16);
}

/* c stands behind the fixed part of the IP header. */
static __always_inline struct inner inner_describe(const struct iphdr *ip, struct cursor c)
{
	const __u8 *l4 = c.pos;
	struct inner in = {
		.len = bpf_ntohs(ip->tot_len),
		.header_len = sizeof(*ip),
		.tos = ip->tos,
		.ttl = ip->ttl,
		.frag_off = ip->frag_off,
	};
	__u32 h = mix(ip->saddr) + ip->daddr;

	h = mix(h) + ip->protocol;
	/* Ports are not in every fragment: hash none of them, so that all take one path. */
	if (is_fragment(ip))
		goto out;
	if (has_options(ip)) { /* the transport header is not where c stands */
		in.header_len = HEADERS_MAX;
		goto out;
	}
	switch (ip->protocol) {
	case IPPROTO_TCP:
		if (l4 + TCP_HEADER_READ > (const __u8 *)c.end)
			goto out;
		in.header_len += (l4[12] >> 4) * 4;
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (l4 + sizeof(struct udphdr) > (const __u8 *)c.end)
			goto out;
		in.header_len += sizeof(struct udphdr);
		break;
	default:
		goto out;
	}
	h = mix(h) + *(const __u32 *)l4; /* both ports */
out:
	in.flow = mix(h);
	return in;
}

/* ONWARD if the packet, or each segment of it, fits the path and can be encapsulated whole. */
static __always_inline int inner_fits(struct __sk_buff *skb, const struct inner *in,
				      const struct host *host)
{
	__u32 gso_size;

	if (likely(in->len <= host->mtu))
		return ONWARD;
	gso_size = skb->gso_size;
	if (!gso_size)
		return PASS_TOO_BIG;
	if (gso_size == GSO_BY_FRAGS && host->header_len)
		return PASS_NOT_ENCAPSULABLE;
	return in->header_len + gso_size <= host->mtu ? ONWARD : PASS_TOO_BIG;
}

/* Completes an outer header, still outside the packet. */
static __always_inline void header_complete(__u8 *header, const struct host *host,
					    const struct inner *in)
{
	struct iphdr *ip = (struct iphdr *)header;
	struct udphdr *udp = (struct udphdr *)(ip + 1);
	__u32 sum = ip->check;

	ip->tot_len = bpf_htons(in->len + host->header_len);
	ip->id = bpf_get_prandom_u32();
	sum += ip->tot_len + ip->id;
	ip->tos |= ecn_encapsulate(in->tos);
	sum += bpf_htons(ecn_encapsulate(in->tos));
	if (host->flags & HOST_INHERIT_DF && in->frag_off & ~ip->frag_off & bpf_htons(IP_DF)) {
		ip->frag_off |= bpf_htons(IP_DF);
		sum += bpf_htons(IP_DF);
	}
	if (host->flags & HOST_INHERIT_TTL) {
		ip->ttl = in->ttl;
		sum += bpf_htons(in->ttl << 8);
	}
	ip->check = ~csum_fold(sum);
	if (ip->protocol != IPPROTO_UDP)
		return;
	udp->len = bpf_htons(in->len + host->header_len - sizeof(*ip));
	if (host->flags & HOST_SOURCE_PORT)
		udp->source = bpf_htons(0xc000 | in->flow >> 18); /* 49152 to 65535: RFC 7348, 5 */
}

static __always_inline int push_header(struct __sk_buff *skb, const struct host *host,
				       const struct inner *in)
{
	__u8 header[HEADER_MAX] __attribute__((aligned(8)));
	__u64 len = host->header_len - 1;

	/*
	 * maps.Hosts writes no such entry; for the verifier. That of kernel 6.1 draws no lower bound
	 * from a comparison with 0, nor any from one of a 32-bit copy with the limit.
	 */
	barrier_var(len);
	if (len >= HEADER_MAX)
		return -1;
	len++;
	__builtin_memcpy(header, host->header, sizeof(header));
	header_complete(header, host, in);
	if (bpf_skb_adjust_room(skb, len, BPF_ADJ_ROOM_MAC, host->adjust))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, header, len, 0);
}

#endif
