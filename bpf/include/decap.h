/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Recognising tunnel packets of this network, and taking the outer header off.
 *
 * The kernel's vxlan device takes tunnel packets from anybody. What is passed to it on purpose is
 * marked as checked, and from_overlay drops the rest; what is too odd to be checked is dropped here,
 * where it can be told apart.
 */
#ifndef BPFNET_DECAP_H
#define BPFNET_DECAP_H

#include "deliver.h"
#include "wire.h"

/* Up to and with the inner UDP header, of the longest encapsulation. */
static __always_inline __u32 network_headers(const struct walk *w)
{
	return 2 * ETH_HLEN + ip_header_len(w->outer_version) + ip_header_len(w->version) +
	       2 * sizeof(struct udphdr) + sizeof(struct vxlanhdr);
}

/*
 * The version of what IP in IP to this node has inside; of everything else the outer one, and of what
 * from_wire has taken out of its tunnel: one tunnel is taken off a packet, not two. c is at the Ethernet header.
 */
static __always_inline enum version version_inside(struct cursor c, enum version outer)
{
	const struct ethhdr *eth = take(&c, ETH_HLEN);
	const void *ip = eth ? take(&c, ip_header_len(outer)) : NULL;
	const struct frag_hdr *fragment;
	__u8 protocol;

	if (!ip || is_wire_mac(eth->h_source) || !is_own(outer, ip_dst(outer, ip)))
		return outer;
	protocol = ip_protocol(outer, ip);
	if (outer == IPV6 && is_fragment(outer, ip)) {
		fragment = take(&c, sizeof(*fragment));
		if (fragment)
			protocol = fragment->nexthdr;
	}
	switch (protocol) {
	case IPPROTO_IPIP:
		return IPV4;
	case IPPROTO_IPV6:
		return IPV6;
	}
	return outer;
}

/* A tunnel packet, its headers valid until it is changed. */
struct tunnel {
	void *outer;
	struct ethhdr *inner_eth; /* VXLAN's, else NULL */
	struct cursor cursor;	  /* at the inner IP header */
	__u32 header_len; /* bytes of the outer IP header, an IPv6 fragment header included */
	__u32 len;	  /* bytes from the outer IP header to the inner one */
	__u32 room;	  /* bytes the packet has from the inner IP header on */
	__u8 protocol;	  /* of what follows the outer IP header */
};

static __always_inline int is_udp_tunnel(__be16 port)
{
	return config.udp_port && port == config.udp_port;
}

static __always_inline int is_vxlan(__be16 port)
{
	return config.vxlan_port && port == config.vxlan_port;
}

static __always_inline int tunnel_udp(struct walk *w, struct tunnel *t)
{
	struct udphdr *udp = take(&t->cursor, sizeof(*udp));
	__u32 len = ip_len(w->outer_version, t->outer);
	struct vxlanhdr *vxlan;

	if (!udp || !(is_udp_tunnel(udp->dest) || is_vxlan(udp->dest)))
		return PASS_NOT_OURS;
	t->len = t->header_len + sizeof(*udp);
	if (!is_udp_tunnel(udp->dest))
		t->len += sizeof(*vxlan) + ETH_HLEN;
	/* What stands behind the packet's end is padding, and no header. */
	if (len < t->len)
		return DROP_TUNNEL_MALFORMED;
	if (!is_fragment(w->outer_version, t->outer) && bpf_ntohs(udp->len) != len - t->header_len)
		return DROP_TUNNEL_MALFORMED;
	if (is_udp_tunnel(udp->dest))
		return ONWARD;
	vxlan = take(&t->cursor, sizeof(*vxlan) + ETH_HLEN);
	if (!vxlan)
		return DROP_TUNNEL_MALFORMED;
	t->inner_eth = (struct ethhdr *)(vxlan + 1);
	/* Any other flag or reserved bit is an extension we do not speak (vxlan_rcv). */
	if (vxlan->flags != bpf_htonl(VXLAN_FLAG_VNI) || vxlan->vni != bpf_htonl(config.vni << 8))
		return PASS_NOT_OURS;
	return ONWARD;
}

/* IP in IP has no VNI: it is ours where the inner packet is for our subnet. */
static __always_inline int tunnel_ipip(struct walk *w, struct tunnel *t)
{
	void *inner = t->cursor.pos;
	__u32 inner_len = ip_header_len(w->version);

	if (!config.ipip)
		return PASS_NOT_OURS;
	/* The address has to be the packet's, not of padding behind it. */
	if (inner + inner_len > t->cursor.end ||
	    ip_len(w->outer_version, t->outer) < t->header_len + inner_len)
		return PASS_MALFORMED;
	t->len = t->header_len;
	return route_host(w->version, ip_dst(w->version, inner)) == HOST_SELF ? ONWARD
									      : PASS_NOT_OURS;
}

/* What has one version inside the other is IP in IP. */
static __always_inline int is_tunnel_protocol(const struct walk *w, const struct tunnel *t)
{
	if (t->protocol == (w->version == IPV4 ? IPPROTO_IPIP : IPPROTO_IPV6))
		return true;
	return t->protocol == IPPROTO_UDP && w->version == w->outer_version;
}

/* No tunnel of ours sends IP options; other UDP with them is the kernel's. */
static __always_inline int tunnel_options(const struct tunnel *t)
{
	const struct iphdr *outer = t->outer;
	const struct udphdr *udp = t->outer + outer->ihl * 4;

	if (t->protocol != IPPROTO_UDP || (const void *)(udp + 1) > t->cursor.end)
		return PASS_OPTIONS;
	return is_udp_tunnel(udp->dest) || is_vxlan(udp->dest) ? DROP_TUNNEL_MALFORMED : PASS_OPTIONS;
}

/*
 * What of the outer header tells whether the rest is to be read: of a fragmented packet the first
 * fragment alone does.
 */
static __always_inline int outer_ipv4(struct walk *w, struct tunnel *t)
{
	const struct iphdr *ip = t->outer;

	t->protocol = ip->protocol;
	if (!is_tunnel_protocol(w, t))
		return PASS_NOT_OURS;
	see(IPV4, &w->outer_src, &ip->saddr);
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return PASS_OUTER_FRAGMENT;
	return has_options(IPV4, ip) ? tunnel_options(t) : ONWARD;
}

/* Behind any other extension header it is the kernel's. from_overlay drops a frame that comes out of it. */
static __always_inline int outer_ipv6(struct walk *w, struct tunnel *t)
{
	const struct ipv6hdr *ip = t->outer;
	const struct frag_hdr *fragment = NULL;

	t->protocol = ip->nexthdr;
	if (is_fragment(IPV6, ip)) {
		fragment = take(&t->cursor, sizeof(*fragment));
		if (!fragment || ip_len(IPV6, ip) < sizeof(*ip) + sizeof(*fragment))
			return PASS_MALFORMED;
		t->header_len += sizeof(*fragment);
		t->protocol = fragment->nexthdr;
	}
	if (!is_tunnel_protocol(w, t))
		return PASS_NOT_OURS;
	see(IPV6, &w->outer_src, ip->saddr.word);
	return fragment && fragment->frag_off & bpf_htons(IP6_OFFSET) ? PASS_OUTER_FRAGMENT : ONWARD;
}

/*
 * ONWARD if the packet is a tunnel packet of this network, to this node: a whole one, or the first
 * fragment of one, without which the kernel puts nothing together.
 */
static __always_inline int tunnel_read(struct walk *w, struct tunnel *t)
{
	enum version outer = w->outer_version;
	int reason;

	if (!is_own(outer, ip_dst(outer, t->outer)))
		return PASS_NOT_OURS;
	t->header_len = ip_header_len(outer);
	reason = outer == IPV4 ? outer_ipv4(w, t) : outer_ipv6(w, t);
	if (reason != ONWARD)
		return reason;
	reason = w->version == outer && t->protocol == IPPROTO_UDP ? tunnel_udp(w, t)
								   : tunnel_ipip(w, t);
	if (reason != ONWARD)
		return reason;
	/* from_wire has looked at the Ethernet address by itself. */
	if (w->skb && w->skb->pkt_type != PACKET_HOST)
		return DROP_TUNNEL_MALFORMED;
	t->room = ip_len(outer, t->outer) - t->len;
	if (is_fragment(outer, t->outer)) {
		if (t->room < ip_header_len(w->version))
			return DROP_TUNNEL_MALFORMED;
		t->room = 0xffff; /* the rest is in the other fragments */
	}
	return ONWARD;
}

/*
 * ONWARD where a tunnel's UDP checksum is right, if the inner packet's is, which the receiver of that
 * will see. What takes reading all of the packet, or is wrong, is left to the kernel's device; flannel's udp
 * backend has none, and there the inner packet's own checksum has to do. PASS_CHECKED for the pseudo header's
 * sum alone, as a virtual wire carries it (CHECKSUM_PARTIAL of include/linux/skbuff.h).
 */
static __always_inline int udp_checksum(enum version v, const void *outer, const struct udphdr *udp,
					void *ip, void *end, int vxlan)
{
	struct cursor c = { ip + ip_header_len(v), end };
	__u32 sum = bpf_htons(IPPROTO_UDP) + udp->len;

	sum += csum_words(ip_src(v, outer), v == IPV4 ? 4 : 16);
	if (udp->check == csum_fold(sum))
		return PASS_CHECKED;
	if (!has_checksum(v, ip, c))
		return vxlan ? PASS_UDP_CHECKSUM : ONWARD;
	sum += packet_sum(v, ip) + csum_words(udp, sizeof(*udp) / 2);
	if (vxlan)
		sum += csum_words(udp + 1, (sizeof(struct vxlanhdr) + ETH_HLEN) / 2);
	if (csum_fold(sum) == 0xffff)
		return ONWARD;
	return vxlan ? PASS_UDP_CHECKSUM : DROP_TUNNEL_MALFORMED;
}

/* Out of line, so that it costs registers only where it is called; end is the packet's. */
static __noinline int udp_checksum_ipv4(const void *outer, const struct udphdr *udp, void *ip,
					void *end, int vxlan)
{
	return udp_checksum(IPV4, outer, udp, ip, end, vxlan);
}

static __noinline int udp_checksum_ipv6(const void *outer, const struct udphdr *udp, void *ip,
					void *end, int vxlan)
{
	return udp_checksum(IPV6, outer, udp, ip, end, vxlan);
}

/*
 * Zero is no checksum: RFC 768, and RFC 6935 for tunnels over IPv6. A superpacket's was verified when it
 * was put together, or is to be made yet. Of one that is to be made yet, from_wire leaves the packet to tc, where the
 * skb's note of where to put it goes with the header (skb_postpull_rcsum()).
 */
static __always_inline int check_udp(struct walk *w, const struct tunnel *t, void *ip)
{
	const struct udphdr *udp = t->outer + t->header_len;
	int vxlan = t->inner_eth != NULL, reason;

	if (w->version != w->outer_version || t->protocol != IPPROTO_UDP || likely(!udp->check) ||
	    (w->skb && w->skb->gso_size))
		return ONWARD;
	if (ip_len(w->version, ip) != t->room) /* more is summed than the inner packet */
		return vxlan ? PASS_UDP_CHECKSUM : ONWARD;
	reason = w->version == IPV4 ? udp_checksum_ipv4(t->outer, udp, ip, t->cursor.end, vxlan)
				    : udp_checksum_ipv6(t->outer, udp, ip, t->cursor.end, vxlan);
	return reason == PASS_CHECKED && w->skb ? ONWARD : reason;
}

/*
 * The inner packet's header in *inner, once it is clear that the node it comes from may send it.
 * ONWARD if it can be taken out of its tunnel; what is passed has been checked as far.
 */
static __always_inline int tunnel_check(struct walk *w, struct tunnel *t, void **inner)
{
	enum version v = w->version, outer = w->outer_version;
	const __be32 *outer_src = ip_src(outer, t->outer);
	int reason;
	void *ip;

	if (t->inner_eth && (t->inner_eth->h_proto != ethertype(v) ||
			     !mac_equal(t->inner_eth->h_dest, family(outer)->overlay_mac.byte))) {
		reason = check_source(outer, outer_src, outer, outer_src);
		return reason == ONWARD ? PASS_INNER_NOT_ROUTED : reason;
	}
	ip = take_ip(v, &t->cursor, t->room);
	if (!ip)
		return DROP_INNER_MALFORMED;
	see(v, &w->src, ip_src(v, ip));
	see(v, &w->dst, ip_dst(v, ip));
	*inner = ip;
	reason = check_source(outer, outer_src, v, ip_src(v, ip));
	if (reason != ONWARD)
		return reason;
	return is_fragment(outer, t->outer) ? PASS_OUTER_FRAGMENT : check_udp(w, t, ip);
}

/*
 * Takes the outer header off. The checksum state stays: an outer UDP header was one level of it
 * (skb->csum_level), an outer IP header none. FIXED_GSO: segments of the inner packet keep their size.
 */
static __always_inline int shrink(struct walk *w, const struct tunnel *t)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	__s32 len = t->len;

	if (w->version == w->outer_version)
		return bpf_skb_adjust_room(w->skb, -len, BPF_ADJ_ROOM_MAC, flags);
	if (!bpf_skb_adjust_room(w->skb, -len, BPF_ADJ_ROOM_MAC,
				 flags | (w->version == IPV4 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4
							     : BPF_F_ADJ_ROOM_DECAP_L3_IPV6)))
		return 0;
	/* Before Linux 6.3, which refuses a flag that it does not know: this makes one header room for the other. */
	if (bpf_skb_change_proto(w->skb, ethertype(w->version), 0))
		return -1;
	len += ip_header_len(w->version) - ip_header_len(w->outer_version);
	return bpf_skb_adjust_room(w->skb, -len, BPF_ADJ_ROOM_MAC, flags);
}

/*
 * Leaves the inner packet behind the Ethernet header, TOS set. Returns the new Ethernet header, or NULL.
 */
static __always_inline struct ethhdr *pop_header(struct walk *w, const struct tunnel *t, int tos)
{
	int udp = w->version == w->outer_version && t->protocol == IPPROTO_UDP;
	struct cursor c;
	struct ethhdr *eth;

	if (shrink(w, t))
		return NULL;
	if (udp)
		bpf_csum_level(w->skb, BPF_CSUM_LEVEL_DEC);
	c = cursor_start(w->skb, ETH_HLEN + ip_header_len(w->version));
	eth = take(&c, ETH_HLEN + ip_header_len(w->version));
	if (!eth)
		return NULL;
	if (w->version != w->outer_version)
		eth->h_proto = ethertype(w->version);
	if (ip_tos(w->version, eth + 1) != tos)
		ip_set_tos(w->version, eth + 1, tos);
	return eth;
}

#endif
