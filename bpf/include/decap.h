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

/* Up to and with the inner ports, of the longest encapsulation. */
#define NETWORK_HEADERS                                                                            \
	(2 * (ETH_HLEN + sizeof(struct iphdr)) + sizeof(struct udphdr) + sizeof(struct vxlanhdr) + \
	 2 * sizeof(__be16))

/* A tunnel packet, its headers valid until it is changed. */
struct tunnel {
	struct iphdr *outer;
	struct ethhdr *inner_eth; /* VXLAN's, else NULL */
	struct cursor cursor;	  /* at the inner IP header */
	__u32 len;		  /* bytes from the outer IP header to the inner one */
	__u32 room;		  /* bytes the packet has from the inner IP header on */
};

static __always_inline int is_udp_tunnel(__be16 port)
{
	return config.udp_port && port == config.udp_port;
}

static __always_inline int is_vxlan(__be16 port)
{
	return config.vxlan_port && port == config.vxlan_port;
}

static __always_inline int tunnel_udp(struct tunnel *t)
{
	struct udphdr *udp = take(&t->cursor, sizeof(*udp));
	struct vxlanhdr *vxlan;

	if (!udp || !(is_udp_tunnel(udp->dest) || is_vxlan(udp->dest)))
		return PASS_NOT_OURS;
	t->len = sizeof(*t->outer) + sizeof(*udp);
	if (!is_udp_tunnel(udp->dest))
		t->len += sizeof(*vxlan) + ETH_HLEN;
	/* What stands behind the packet's end is padding, and no header. */
	if (bpf_ntohs(t->outer->tot_len) < t->len)
		return DROP_TUNNEL_MALFORMED;
	if (!is_fragment(t->outer) &&
	    bpf_ntohs(udp->len) != bpf_ntohs(t->outer->tot_len) - sizeof(*t->outer))
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

/* Protocol 4 has no VNI: it is ours where the inner packet is for our subnet. */
static __always_inline int tunnel_ipip(struct tunnel *t)
{
	struct iphdr *inner = t->cursor.pos;

	if (!config.ipip)
		return PASS_NOT_OURS;
	/* The address has to be the packet's, not of padding behind it. */
	if ((void *)(inner + 1) > t->cursor.end ||
	    bpf_ntohs(t->outer->tot_len) < sizeof(*t->outer) + sizeof(*inner))
		return PASS_MALFORMED;
	t->len = sizeof(*t->outer);
	return route_lookup(inner->daddr) == HOST_SELF ? ONWARD : PASS_NOT_OURS;
}

/* No tunnel of ours sends IP options; other UDP with them is the kernel's. */
static __always_inline int tunnel_options(const struct tunnel *t)
{
	struct udphdr *udp = (void *)t->outer + t->outer->ihl * 4;

	if (t->outer->protocol != IPPROTO_UDP || (void *)(udp + 1) > t->cursor.end)
		return PASS_OPTIONS;
	return is_udp_tunnel(udp->dest) || is_vxlan(udp->dest) ? DROP_TUNNEL_MALFORMED : PASS_OPTIONS;
}

/*
 * ONWARD if the packet is a tunnel packet of this network, to this node: a whole one, or the first
 * fragment of one, without which the kernel puts nothing together.
 */
static __always_inline int tunnel_read(struct walk *w, struct tunnel *t)
{
	int reason;

	if (!addr_is_ipv4(&config.ipv4.node, t->outer->daddr))
		return PASS_NOT_OURS;
	if (t->outer->protocol != IPPROTO_UDP && t->outer->protocol != IPPROTO_IPIP)
		return PASS_NOT_OURS;
	w->outer_src = t->outer->saddr;
	if (t->outer->frag_off & bpf_htons(IP_OFFSET))
		return PASS_OUTER_FRAGMENT;
	if (has_options(t->outer))
		return tunnel_options(t);
	reason = t->outer->protocol == IPPROTO_UDP ? tunnel_udp(t) : tunnel_ipip(t);
	if (reason != ONWARD)
		return reason;
	if (!ipv4_checksum_ok(t->outer))
		return PASS_MALFORMED;
	/* from_wire has looked at the Ethernet address by itself. */
	if (w->skb && w->skb->pkt_type != PACKET_HOST)
		return DROP_TUNNEL_MALFORMED;
	t->room = bpf_ntohs(t->outer->tot_len) - t->len;
	if (is_fragment(t->outer)) {
		if (t->room < sizeof(struct iphdr))
			return DROP_TUNNEL_MALFORMED;
		t->room = 0xffff; /* the rest is in the other fragments */
	}
	return ONWARD;
}

/*
 * The inner packet's header in *inner, once it is clear that the node it comes from may send it.
 * ONWARD if it can be taken out of its tunnel; what is passed has been checked as far.
 */
static __always_inline int tunnel_check(struct walk *w, struct tunnel *t, struct iphdr **inner)
{
	struct iphdr *ip;
	int reason;

	if (t->inner_eth && (t->inner_eth->h_proto != bpf_htons(ETH_P_IP) ||
			     !mac_equal(t->inner_eth->h_dest, config.ipv4.overlay_mac.byte))) {
		reason = check_source(t->outer->saddr, t->outer->saddr);
		return reason == ONWARD ? PASS_INNER_NOT_ROUTED : reason;
	}
	ip = take_ipv4(&t->cursor, t->room);
	if (!ip)
		return DROP_INNER_MALFORMED;
	w->src = ip->saddr;
	w->dst = ip->daddr;
	*inner = ip;
	reason = check_source(t->outer->saddr, ip->saddr);
	if (reason != ONWARD)
		return reason;
	return is_fragment(t->outer) ? PASS_OUTER_FRAGMENT : ONWARD;
}

/*
 * Takes the outer header off and leaves the inner packet behind the Ethernet header, TOS set.
 * Returns the new Ethernet header, or NULL.
 *
 * The checksum state stays: an outer UDP header was one level of it (skb->csum_level), an outer IP
 * header none. FIXED_GSO: segments of the inner packet keep their size.
 */
static __always_inline struct ethhdr *pop_header(struct __sk_buff *skb, const struct tunnel *t,
						 int tos)
{
	int udp = t->outer->protocol == IPPROTO_UDP;
	struct cursor c;
	struct ethhdr *eth;
	struct iphdr *ip;

	if (bpf_skb_adjust_room(skb, -(__s32)t->len, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return NULL;
	if (udp)
		bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	c = cursor_start(skb, ETH_HLEN + sizeof(*ip));
	eth = take(&c, ETH_HLEN + sizeof(*ip));
	if (!eth)
		return NULL;
	ip = (struct iphdr *)(eth + 1);
	if (ip->tos != tos)
		ipv4_set_tos(ip, tos);
	return eth;
}

#endif
