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

#define GOLDEN_RATIO_64 0x61c8864680b583ebULL /* include/linux/hash.h */

/* Takes 8 bytes more into a hash: each bit moves the upper half, which the lower one then gets too. */
static __always_inline __u64 mix(__u64 h, __u64 more)
{
	h = (h ^ more) * GOLDEN_RATIO_64;
	return h ^ h >> 32;
}

static __always_inline __u64 hash_addresses(enum version v, const void *ip)
{
	const __be32 *word = ip_src(v, ip); /* source, and behind it destination */
	__u64 h = 0;

	for (int i = 0; i < (v == IPV4 ? 2 : 8); i += 2)
		h = mix(h, (__u64)word[i] << 32 | word[i + 1]);
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
	__u64 h = hash_addresses(v, ip);
	__u32 ports = 0;

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
	ports = *(const __u32 *)l4;
out:
	h = mix(h, (__u64)ip_protocol(v, ip) << 32 | ports);
	in.flow = mix(h, 0) >> 32;
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
	if (gso_size == GSO_BY_FRAGS && host->encap != ENCAP_NONE)
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

/* Bytes of the outer header. */
static __always_inline __u32 outer_len(enum version outer, enum encap encap)
{
	switch (encap) {
	case ENCAP_VXLAN:
		return ip_header_len(outer) + sizeof(struct udphdr) + sizeof(struct vxlanhdr) +
		       ETH_HLEN;
	case ENCAP_UDP:
		return ip_header_len(outer) + sizeof(struct udphdr);
	case ENCAP_IPIP:
		return ip_header_len(outer);
	case ENCAP_NONE:
		break;
	}
	return 0;
}

/*
 * What completes a header that has been copied into the packet. It is read where it was copied from: to read
 * what was just written in other pieces the CPU has to wait until that has left its store buffer.
 */
static __always_inline void ipv4_complete(struct iphdr *ip, const struct iphdr *finished, __u32 len,
					  const struct destination *to, const struct inner *in)
{
	__u8 ecn = ecn_encapsulate(in->tos), flags = to->host->flags;
	__be16 id = bpf_get_prandom_u32(), tot_len = bpf_htons(len + in->len);
	__u32 sum = finished->check + tot_len + id + bpf_htons(ecn);

	ip->tot_len = tot_len;
	ip->id = id;
	ip->tos = finished->tos | ecn;
	if (flags & HOST_INHERIT_DF && in->frag_off & ~finished->frag_off & bpf_htons(IP_DF)) {
		ip->frag_off = finished->frag_off | bpf_htons(IP_DF);
		sum += bpf_htons(IP_DF);
	}
	if (flags & HOST_INHERIT_TTL) {
		ip->ttl = in->ttl;
		sum += bpf_htons(in->ttl << 8);
	}
	if (to->node) {
		ip->daddr = to->node;
		sum += (to->node & 0xffff) + (to->node >> 16);
	}
	ip->check = ~csum_fold(sum);
}

static __always_inline void ipv6_complete(struct ipv6hdr *ip, const struct ipv6hdr *finished,
					  __u32 len, const struct destination *to,
					  const struct inner *in)
{
	__u8 flags = to->host->flags;
	__u32 label = flags & HOST_FLOW_LABEL ? in->flow >> 12 : 0; /* 20 bits */

	ip->payload_len = bpf_htons(len - sizeof(*ip) + in->len);
	*(__be32 *)ip = *(const __be32 *)finished |
			bpf_htonl((__u32)ecn_encapsulate(in->tos) << 20 | label);
	if (flags & HOST_INHERIT_TTL)
		ip->hop_limit = in->ttl;
}

/* Likewise an outer UDP header of so many bytes with what follows it. */
static __always_inline void udp_complete(enum version v, struct udphdr *udp,
					 const struct udphdr *finished, __u32 len,
					 const struct host *host, const struct inner *in)
{
	__be16 udp_len = bpf_htons(len), source = finished->source;
	__u32 sum;

	if (host->flags & HOST_SOURCE_PORT)
		source = bpf_htons(0xc000 | in->flow >> 18); /* 49152 to 65535: RFC 7348, 5 */
	udp->source = source;
	udp->len = udp_len;
	if (!needs_checksum(v, host))
		return;
	/* The length is in the pseudo header too. */
	sum = finished->check + source + 2 * udp_len + in->sum;
	udp->check = (__u16)~csum_fold(sum) ?: 0xffff; /* 0 means none: RFC 768 */
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

/*
 * With the encapsulation a constant, all lengths and offsets are. ONWARD, or why not: PASS_NOT_ENCAPSULABLE
 * as make_room().
 */
static __always_inline int push_header_of(struct walk *w, enum version outer, enum encap encap,
					  const struct destination *to, const struct inner *in)
{
	__u32 ip_len = ip_header_len(outer), len = outer_len(outer, encap);
	const void *finished = to->host->header;
	int reason = make_room(w, outer, to->host, len);
	struct ethhdr *eth;
	struct cursor c;
	void *header;

	if (reason != ONWARD)
		return reason;
	c = cursor_start(w->skb, ETH_HLEN + len);
	eth = take(&c, ETH_HLEN + len);
	if (!eth)
		return DROP_ENCAPSULATE;
	header = eth + 1;
	if (outer != w->version)
		eth->h_proto = ethertype(outer);
	words_copy(header, finished, len);
	if (outer == IPV4)
		ipv4_complete(header, finished, len, to, in);
	else
		ipv6_complete(header, finished, len, to, in);
	if (encap != ENCAP_IPIP)
		udp_complete(outer, header + ip_len, finished + ip_len, len - ip_len + in->len,
			     to->host, in);
	if (encap == ENCAP_VXLAN && to->node)
		mac_write(header + len - ETH_HLEN, to->mac);
	return ONWARD;
}

/* The control plane writes no other combinations. */
static __always_inline int push_header(struct walk *w, enum version outer,
				       const struct destination *to, const struct inner *in)
{
	switch (to->host->encap) {
	case ENCAP_VXLAN:
		return outer == w->version ? push_header_of(w, outer, ENCAP_VXLAN, to, in)
					   : DROP_ENCAPSULATE;
	case ENCAP_UDP:
		return outer == IPV4 && w->version == IPV4
			       ? push_header_of(w, outer, ENCAP_UDP, to, in)
			       : DROP_ENCAPSULATE;
	case ENCAP_IPIP: /* outer may be either */
		return outer == IPV4 ? push_header_of(w, IPV4, ENCAP_IPIP, to, in)
				     : push_header_of(w, IPV6, ENCAP_IPIP, to, in);
	case ENCAP_NONE:
		break;
	}
	return DROP_ENCAPSULATE;
}

#endif
