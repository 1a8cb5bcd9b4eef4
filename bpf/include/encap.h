/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Encapsulation, the same for every mode: push the host's finished header, then fill in what only
 * the packet knows (lengths, IP ID, ECN, source port, checksum).
 */
#ifndef BPFNET_ENCAP_H
#define BPFNET_ENCAP_H

#include "ecn.h"
#include "verdict.h"

#define TCP_HEADER_READ 13    /* up to and with the data offset (RFC 9293, 3.1) */
#define HEADERS_MAX (60 + 60) /* IPv4 with all options, TCP with all of its */
#define HEADERS_UNKNOWN 0xffff
#define GSO_BY_FRAGS 0xffff /* include/linux/skbuff.h: SCTP's segments have sizes of their own */

/* What encapsulation has to know of the inner packet. */
struct inner {
	__u32 len;	  /* of the IP packet, bytes; a superpacket's whole length */
	__u32 header_len; /* IP and transport header, what each GSO segment repeats; at least that */
	__u32 flow;	  /* hash: equal for all packets of a flow */
	__u32 sum;	  /* of all its words, for a tunnel's checksum */
	__u8 tos;
	__u8 ttl;
	__be16 frag_off; /* IPv4's */
};

/* Where a packet goes: a host entry or, with node set, a template and what completes it. */
struct destination {
	const struct host *host;
	__be32 node;
	__u64 mac; /* in its first 6 bytes */
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

static __always_inline __u32 hash_addresses(enum version v, const void *ip)
{
	const __be32 *word = ip_src(v, ip);
	__u32 h = 0;

	if (v == IPV4)
		return mix(word[0]) + word[1];
	for (int i = 0; i < 8; i++) /* source, and behind it destination */
		h = h * 0x01000193 + word[i];
	return h;
}

/* c stands behind the fixed part of the IP header. */
static __always_inline struct inner inner_describe(enum version v, const void *ip, struct cursor c)
{
	const __u8 *l4 = c.pos;
	struct inner in = {
		.len = ip_len(v, ip),
		.header_len = ip_header_len(v),
		.tos = ip_tos(v, ip),
		.ttl = ip_ttl(v, ip),
		.frag_off = v == IPV4 ? ((const struct iphdr *)ip)->frag_off : 0,
	};
	__u32 h = hash_addresses(v, ip);

	h = mix(h) + ip_protocol(v, ip);
	/* Ports are not in every fragment: hash none of them, so that all take one path. */
	if (is_fragment(v, ip))
		goto out;
	if (v == IPV4 && has_options(v, ip)) { /* the transport header is not where c stands */
		in.header_len = HEADERS_MAX;
		goto out;
	}
	switch (ip_protocol(v, ip)) {
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
		if (v == IPV6) /* an extension header may be in front of it */
			in.header_len = HEADERS_UNKNOWN;
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

/* The version of what goes to a host. A constant to the verifier where nothing is IPv6. */
static __always_inline enum version version_to(const struct host *host)
{
	return config.ipv6.used && host->flags & HOST_IPV6 ? IPV6 : IPV4;
}

/* Only VXLAN over IPv6 has one, and inside it is always IPv6. */
static __always_inline int needs_checksum(enum version v, const struct host *host)
{
	return v == IPV6 && host->flags & HOST_CHECKSUM;
}

/*
 * ONWARD if the tunnel's header can have the checksum it needs. Each segment of a superpacket needs one
 * of its own, which the kernel makes only for what its own device has encapsulated
 * (SKB_GSO_UDP_TUNNEL_CSUM).
 */
static __always_inline int can_checksum(enum version v, struct __sk_buff *skb, const void *ip,
					struct cursor c)
{
	return skb->gso_size || !has_checksum(v, ip, c) ? PASS_UDP_CHECKSUM : ONWARD;
}

/* Completes an outer UDP header of so many bytes with what follows it. */
static __always_inline void udp_complete(enum version v, struct udphdr *udp, __u32 len,
					 const struct host *host, const struct inner *in)
{
	__u32 sum = udp->check;

	udp->len = bpf_htons(len);
	if (host->flags & HOST_SOURCE_PORT)
		udp->source = bpf_htons(0xc000 | in->flow >> 18); /* 49152 to 65535: RFC 7348, 5 */
	if (!needs_checksum(v, host))
		return;
	sum += udp->source + 2 * udp->len + in->sum; /* the length is in the pseudo header too */
	udp->check = ~csum_fold(sum);
	if (!udp->check)
		udp->check = 0xffff; /* 0 means none: RFC 768 */
}

/* Completes an outer IPv4 header, still outside the packet. */
static __always_inline void ipv4_complete(struct iphdr *ip, const struct host *host,
					  const struct inner *in)
{
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
	if (ip->protocol == IPPROTO_UDP)
		udp_complete(IPV4, (struct udphdr *)(ip + 1),
			     in->len + host->header_len - sizeof(*ip), host, in);
}

static __always_inline void ipv6_complete(struct ipv6hdr *ip, const struct host *host,
					  const struct inner *in)
{
	__u32 len = in->len + host->header_len - sizeof(*ip);
	__u32 label = host->flags & HOST_FLOW_LABEL ? in->flow >> 12 : 0; /* 20 bits */

	ip->payload_len = bpf_htons(len);
	*(__be32 *)ip |= bpf_htonl((__u32)ecn_encapsulate(in->tos) << 20 | label);
	if (host->flags & HOST_INHERIT_TTL)
		ip->hop_limit = in->ttl;
	if (ip->nexthdr == IPPROTO_UDP)
		udp_complete(IPV6, (struct udphdr *)(ip + 1), len, host, in);
}

static __always_inline void header_complete(enum version outer, __u8 *header,
					    const struct host *host, const struct inner *in)
{
	if (outer == IPV6)
		ipv6_complete((struct ipv6hdr *)header, host, in);
	else
		ipv4_complete((struct iphdr *)header, host, in);
}

/* Where the inner Ethernet destination stands in VXLAN's header; shorter ones end before. */
#define VXLAN_MAC (sizeof(struct iphdr) + sizeof(struct udphdr) + sizeof(struct vxlanhdr))

/* Makes a copy of a template's header one of a host entry. */
static __always_inline void template_complete(__u8 *header, const struct destination *to)
{
	struct iphdr *ip = (struct iphdr *)header;

	ip->daddr = to->node;
	ip->check = csum_fold(ip->check + (to->node & 0xffff) + (to->node >> 16));
	*(__u32 *)(header + VXLAN_MAC) = to->mac;
	*(__u16 *)(header + VXLAN_MAC + 4) = to->mac >> 32;
}

/*
 * ONWARD once there is room for the outer header; PASS_NOT_ENCAPSULABLE where the packet is as it was.
 *
 * An skb knows of one tunnel (skb->encapsulation), and may have it already: a container's own, or the one
 * that a container or this node is forwarding it out of. Then bpf_skb_adjust_room() refuses it (-EALREADY). A superpacket
 * has to be cut first, by the kernel; any other only needs the bytes, for its checksum, if it is still to be
 * filled in, is the inner one's, wherever that stands.
 */
static __always_inline int make_room(struct walk *w, enum version outer, const struct host *host,
				     __u32 len)
{
	__s32 longer = ip_header_len(outer) - ip_header_len(w->version);

	if (likely(!bpf_skb_adjust_room(w->skb, len, BPF_ADJ_ROOM_MAC, host->adjust)))
		return ONWARD;
	if (w->skb->gso_size)
		return PASS_NOT_ENCAPSULABLE;
	if (bpf_skb_adjust_room(w->skb, len - longer, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_ENCAPSULATE;
	if (outer != w->version && bpf_skb_change_proto(w->skb, ethertype(outer), 0))
		return DROP_ENCAPSULATE;
	return ONWARD;
}

/* ONWARD, or why not: PASS_NOT_ENCAPSULABLE as make_room(). */
static __always_inline int push_header(struct walk *w, enum version outer,
				       const struct destination *to, const struct inner *in)
{
	const struct host *host = to->host;
	__u8 header[HEADER_MAX] __attribute__((aligned(8)));
	__be16 proto = ethertype(outer);
	__u64 len;
	int reason;

	__builtin_memcpy(header, host->header, sizeof(header));
	if (to->node)
		template_complete(header, to);
	header_complete(outer, header, host, in);
	len = host->header_len - 1;
	/*
	 * maps.Hosts writes no such entry; for the verifier. That of kernel 6.1 draws no lower bound
	 * from a comparison with 0, nor any from one of a 32-bit copy with the limit, nor keeps it for
	 * what was on the stack before.
	 */
	barrier_var(len);
	if (len >= HEADER_MAX)
		return DROP_ENCAPSULATE;
	len++;
	reason = make_room(w, outer, host, len);
	if (reason != ONWARD)
		return reason;
	if (outer != w->version &&
	    bpf_skb_store_bytes(w->skb, ETH_HLEN - sizeof(proto), &proto, sizeof(proto), 0))
		return DROP_ENCAPSULATE;
	return bpf_skb_store_bytes(w->skb, ETH_HLEN, header, len, 0) ? DROP_ENCAPSULATE : ONWARD;
}

#endif
