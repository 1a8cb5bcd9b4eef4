// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* tc ingress on the host end of a container's veth: what the container sends. */
#include "include/deliver.h"
#include "include/nat.h"
#include "include/send.h"

/* To another container of this node, by the bridge's rules or the router's. */
static __always_inline enum reason to_neighbour(struct walk *w, struct packet *p,
						const struct endpoint *from,
						const struct endpoint *to)
{
	int bridged = mac_equal(p->eth->h_dest, to->mac.byte), reason;

	if (!bridged && !mac_equal(p->eth->h_dest, from->gateway.byte))
		return PASS_NOT_ROUTED;
	if (!bridged && p->ip->ttl <= 1)
		return PASS_TTL;
	reason = nat_check(w, p->ip, p->cursor);
	if (reason != ONWARD)
		return reason;
	if (bridged)
		return to_endpoint(w, to, FORWARD_LOCAL);
	ipv4_decrement_ttl(p->ip);
	ethernet_to_endpoint(p->eth, to);
	return to_endpoint(w, to, FORWARD_LOCAL);
}

/* Into bpfnet0, as the kernel would route it: from_veth encapsulates it. */
static __always_inline enum reason by_bpfnet0(struct walk *w, struct packet *p,
					      const struct host *host)
{
	struct inner in = inner_describe(p->ip, p->cursor);
	int reason = inner_fits(w->skb, &in, host);

	if (reason != ONWARD)
		return reason;
	ipv4_decrement_ttl(p->ip);
	return redirected(w, bpf_redirect(config.ipv4.overlay_ifindex, 0), FORWARD_TO_OVERLAY);
}

static __always_inline enum reason to_remote(struct walk *w, struct packet *p,
					     const struct endpoint *from, __u32 index)
{
	struct host *host;
	int reason;

	if (!mac_equal(p->eth->h_dest, from->gateway.byte))
		return PASS_NOT_ROUTED;
	reason = remote_host(index, &host);
	if (reason != ONWARD)
		return reason;
	if (p->ip->ttl <= 1)
		return PASS_TTL;
	reason = nat_check(w, p->ip, p->cursor);
	if (reason != ONWARD)
		return reason;
	if (config.udp_port && host->encap == ENCAP_UDP)
		return by_bpfnet0(w, p, host);
	return send(w, p, host, UNROUTED);
}

/*
 * A source that no container here is known to have. It may be one not learned yet; another node's it is
 * not, nor does a packet from outside the overlay enter it.
 */
static __always_inline enum reason unknown_source(const struct iphdr *ip)
{
	__u32 from = route_lookup(ip->saddr);

	if (from == HOST_SELF)
		return PASS_UNKNOWN_SOURCE;
	if (from != HOST_NONE || route_lookup(ip->daddr) >= HOST_FIRST)
		return DROP_CONTAINER_SOURCE;
	return PASS_UNKNOWN_SOURCE;
}

static __always_inline enum reason walk_from_container(struct walk *w)
{
	struct endpoint *from, *to;
	struct packet p;
	__u32 index;
	int reason = packet_read(w, &p);

	if (reason != ONWARD)
		return reason;
	/* A router has to read them. */
	if (has_options(p.ip))
		return PASS_OPTIONS;
	from = endpoint_lookup(p.ip->saddr);
	if (!from)
		return unknown_source(p.ip);
	if (from->ifindex != w->skb->ifindex)
		return DROP_CONTAINER_SOURCE;
	/* Endpoints are of this node's subnet: what goes to a peer's need not ask for one. */
	index = route_lookup(p.ip->daddr);
	to = index < HOST_FIRST ? endpoint_lookup(p.ip->daddr) : NULL;
	if (to)
		return to_neighbour(w, &p, from, to);
	return to_remote(w, &p, from, index);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_CONTAINER);

	return verdict(&w, walk_from_container(&w));
}
