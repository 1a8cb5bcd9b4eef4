/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What from_container and from_host share: from a readable inner packet to the uplink. */
#ifndef BPFNET_SEND_H
#define BPFNET_SEND_H

#include "encap.h"
#include "route.h"

/* Headers of one container packet, valid until the packet is changed. */
struct packet {
	struct cursor cursor; /* behind the IP header */
	struct ethhdr *eth;
	struct iphdr *ip;
};

/* Reads what a node may be asked to forward. ONWARD if it is for us to look at further. */
static __always_inline int packet_read(struct walk *w, struct packet *p)
{
	/* All the headers up to TCP's data offset, the last thing encapsulation looks at. */
	struct cursor c = cursor_start(w->skb, ETH_HLEN + sizeof(struct iphdr) + TCP_HEADER_READ);

	p->eth = take(&c, ETH_HLEN);
	if (!p->eth)
		return PASS_MALFORMED;
	if (p->eth->h_proto != bpf_htons(ETH_P_IP) || w->skb->vlan_present)
		return PASS_PROTOCOL;
	p->ip = take_ipv4(&c, w->len - ETH_HLEN);
	/* Padding behind the packet is the kernel's to trim: it must not travel. */
	if (!p->ip || bpf_ntohs(p->ip->tot_len) != w->len - ETH_HLEN)
		return PASS_MALFORMED;
	w->src = p->ip->saddr;
	w->dst = p->ip->daddr;
	p->cursor = c;
	return ONWARD;
}

/* The remote host a destination belongs to, in *host. ONWARD if there is one. */
static __always_inline int remote_host(__be32 dst, struct host **host)
{
	__u32 index = route_lookup(dst);

	if (index == HOST_NONE)
		return PASS_NO_ROUTE;
	if (index == HOST_SELF)
		return PASS_LOCAL;
	*host = host_lookup(index);
	return *host ? ONWARD : PASS_NO_ROUTE;
}

/* Sends an unchanged packet to a remote host; hops is what to take off its TTL. */
static __always_inline enum reason send(struct walk *w, struct packet *p, const struct host *host,
					int hops)
{
	struct bpf_redir_neigh next_hop = {
		.nh_family = AF_INET,
		.ipv4_nh = host->next_hop.word[3],
	};
	struct inner in = inner_describe(p->ip, p->cursor);
	int reason = inner_fits(w->skb, &in, host);

	if (reason != ONWARD)
		return reason;
	/* From here on the packet is changed: a failure is a drop. */
	if (hops) {
		ipv4_decrement_ttl(p->ip);
		in.ttl--;
	}
	if (host->header_len && push_header(w->skb, host, &in) < 0)
		return DROP_ENCAPSULATE;
	/*
	 * A packet of the host's own carries the kernel's route into bpfnet0 along. While a next hop's
	 * MAC is being resolved the packet waits, and then leaves by the neighbour of that route
	 * (neigh_update() in net/core/neighbour.c). Without a next hop given, the helper looks one up
	 * and replaces the route.
	 */
	return redirected(w,
			  hops ? bpf_redirect_neigh(host->ifindex, &next_hop, sizeof(next_hop), 0)
			       : bpf_redirect_neigh(host->ifindex, NULL, 0, 0),
			  host->header_len ? FORWARD_ENCAPSULATED : FORWARD_ROUTED);
}

#endif
