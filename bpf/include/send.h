/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs on the way out share: from a readable inner packet to the uplink. */
#ifndef BPFNET_SEND_H
#define BPFNET_SEND_H

#include "encap.h"
#include "nexthop.h"
#include "route.h"

/* Headers of one container packet, valid until the packet is changed. */
struct packet {
	struct cursor cursor; /* behind the IP header */
	struct ethhdr *eth;
	void *ip;
};

/* Reads what a node may be asked to forward. ONWARD if it is for us to look at further. */
static __always_inline int packet_read(struct walk *w, struct packet *p)
{
	/* All the headers up to TCP's data offset, the last thing encapsulation looks at. */
	struct cursor c = cursor_start(w->skb,
				       ETH_HLEN + ip_header_len(w->version) + TCP_HEADER_READ);

	p->eth = take(&c, ETH_HLEN);
	if (!p->eth)
		return PASS_MALFORMED;
	if (p->eth->h_proto != ethertype(w->version) || w->skb->vlan_present)
		return PASS_PROTOCOL;
	p->ip = take_ip(w->version, &c, w->len - ETH_HLEN);
	/* Padding behind the packet is the kernel's to trim: it must not travel. */
	if (!p->ip || ip_len(w->version, p->ip) != w->len - ETH_HLEN)
		return PASS_MALFORMED;
	see(w->version, &w->src, ip_src(w->version, p->ip));
	see(w->version, &w->dst, ip_dst(w->version, p->ip));
	p->cursor = c;
	return w->version == IPV6 && is_link_scope(p->ip, c) ? PASS_LINK_SCOPE : ONWARD;
}

/* What route_slot has of its host, once it is clear that both halves are of one. */
static __always_inline const struct host *template_lookup(struct route route, struct destination *to)
{
	__u64 half = *(const volatile __u64 *)&route.slot->mac;
	__u32 template = half >> 48 & 0xff;

	if (!template || half >> 56 != (route.host & 0xff))
		return NULL;
	to->node = route.node;
	to->mac = half;
	return bpf_map_lookup_elem(&templates, &template);
}

/* A route's host in *to. ONWARD if it is another node. */
static __always_inline int remote_host(struct route route, struct destination *to)
{
	*to = (struct destination){};
	if (route.host == HOST_NONE)
		return PASS_NO_ROUTE;
	if (route.host == HOST_SELF)
		return PASS_LOCAL;
	if (route.slot)
		to->host = template_lookup(route, to);
	if (!to->node)
		to->host = host_lookup(route.host);
	return to->host ? ONWARD : PASS_NO_ROUTE;
}

/* What of a packet's way to a remote host the kernel has done already. */
enum progress {
	UNROUTED, /* nothing: its TTL is still to be decremented */
	ROUTED,	  /* the hop; the packet carries the kernel's route into bpfnet0 along */
	CROSSED,  /* the hop, and the way through bpfnet0, on which the route was lost */
};

/* By the kernel's neighbours. */
static __always_inline long by_kernel_neighbour(enum version outer, const struct destination *to)
{
	const struct host *host = to->host;
	struct bpf_redir_neigh next_hop = {
		.nh_family = AF_INET,
		.ipv4_nh = host->next_hop.word[3] ?: to->node,
	};

	if (outer == IPV6) {
		next_hop.nh_family = AF_INET6;
		for (int i = 0; i < 4; i++)
			next_hop.ipv6_nh[i] = host->next_hop.word[i];
	}
	return bpf_redirect_neigh(host->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* What a packet that is ready is sent by: a redirect helper's answer. */
static __always_inline long to_next_hop(struct walk *w, enum version outer,
					const struct destination *to, enum progress progress)
{
	const struct host *host = to->host;
	const struct next_hop *hop = NULL;
	struct cursor c;
	void *eth;

	/*
	 * While a next hop's MAC is being resolved a packet waits, and if it has a route, then leaves by
	 * the neighbour of that (neigh_update() in net/core/neighbour.c). Without a next hop given, the
	 * helper looks one up and replaces the route.
	 */
	if (progress == ROUTED)
		return bpf_redirect_neigh(host->ifindex, NULL, 0, 0);
	if (outer == IPV4 && host->flags & HOST_ETHERNET)
		hop = next_hop_known(w->skb, host->ifindex, host->next_hop.word[3] ?: to->node);
	if (!hop)
		return by_kernel_neighbour(outer, to);
	c = cursor_start(w->skb, ETH_HLEN);
	eth = take(&c, ETH_HLEN);
	if (!eth)
		return TC_ACT_SHOT;
	words_copy(eth, hop->macs, sizeof(hop->macs));
	return bpf_redirect(host->ifindex, 0);
}

/* Makes a packet that could not be encapsulated what it was: the kernel gets it. */
static __always_inline enum reason undo_hop(struct walk *w, __u32 hop)
{
	struct cursor c = cursor_start(w->skb, ETH_HLEN + ip_header_len(w->version));
	void *eth = take(&c, ETH_HLEN), *ip = take(&c, ip_header_len(w->version));

	if (!eth || !ip)
		return DROP_ENCAPSULATE;
	*ip_hop(w->version, ip) = hop;
	return PASS_NOT_ENCAPSULABLE;
}

/* Sends an unchanged packet to a remote host. */
static __always_inline enum reason send(struct walk *w, struct packet *p,
					const struct destination *to, enum progress progress)
{
	const struct host *host = to->host;
	enum version outer = version_to(host);
	struct inner in = inner_describe(w->version, p->ip, p->cursor);
	int reason = inner_fits(w->skb, &in, host);
	__u32 hop;

	if (reason != ONWARD)
		return reason;
	if (needs_checksum(w->version, host)) {
		reason = can_checksum(w->version, w->skb, p->ip, p->cursor);
		if (reason != ONWARD)
			return reason;
	}
	/* From here on the packet is changed: a failure is a drop, but for what can be undone. */
	hop = *ip_hop(w->version, p->ip);
	if (progress == UNROUTED) {
		ip_decrement_ttl(w->version, p->ip);
		in.ttl--;
	}
	if (needs_checksum(w->version, host))
		in.sum = packet_sum(w->version, p->ip);
	if (host->encap != ENCAP_NONE) {
		reason = push_header(w, outer, to, &in);
		if (reason == PASS_NOT_ENCAPSULABLE && progress == UNROUTED)
			return undo_hop(w, hop);
		if (reason != ONWARD)
			return reason;
	}
	return redirected(w, to_next_hop(w, outer, to, progress),
			  host->encap != ENCAP_NONE ? FORWARD_ENCAPSULATED : FORWARD_ROUTED);
}

/* Sends what left this node by its overlay device. */
static __always_inline enum reason send_from_node(struct walk *w, enum progress progress)
{
	struct packet p;
	struct destination to;
	int reason = packet_read(w, &p);
	const __be32 *src;

	if (reason != ONWARD)
		return reason;
	reason = remote_host(route_lookup(w->version, ip_dst(w->version, p.ip)), &to);
	if (reason != ONWARD)
		return reason;
	src = ip_src(w->version, p.ip);
	/* The peer would drop it: say so here, where the cause is. */
	if (!is_own(w->version, src) && route_host(w->version, src) != HOST_SELF)
		return DROP_NODE_SOURCE;
	return send(w, &p, &to, progress);
}

#endif
