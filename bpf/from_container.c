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
	if (!bridged && ip_ttl(w->version, p->ip) <= 1)
		return PASS_TTL;
	reason = nat_check(w, p->ip, p->cursor);
	if (reason != ONWARD)
		return reason;
	if (bridged)
		return to_endpoint(w, to, FORWARD_LOCAL);
	ip_decrement_ttl(w->version, p->ip);
	ethernet_to_endpoint(p->eth, to);
	return to_endpoint(w, to, FORWARD_LOCAL);
}

/* Into bpfnet0, as the kernel would route it: from_veth encapsulates it. */
static __always_inline enum reason by_bpfnet0(struct walk *w, struct packet *p,
					      const struct host *host)
{
	struct inner in = inner_describe(w->version, p->ip, p->cursor);
	int reason = inner_fits(w->skb, &in, host);

	if (reason != ONWARD)
		return reason;
	ip_decrement_ttl(w->version, p->ip);
	return redirected(w, bpf_redirect(family(w->version)->overlay_ifindex, 0),
			  FORWARD_TO_OVERLAY);
}

static __always_inline enum reason to_remote(struct walk *w, struct packet *p,
					     const struct endpoint *from, struct route route)
{
	struct destination to;
	int reason;

	if (!mac_equal(p->eth->h_dest, from->gateway.byte))
		return PASS_NOT_ROUTED;
	reason = remote_host(route, &to);
	if (reason != ONWARD)
		return reason;
	if (ip_ttl(w->version, p->ip) <= 1)
		return PASS_TTL;
	reason = nat_check(w, p->ip, p->cursor);
	if (reason != ONWARD)
		return reason;
	if (config.udp_port && to.host->encap == ENCAP_UDP)
		return by_bpfnet0(w, p, to.host);
	return send(w, p, &to, UNROUTED);
}

/*
 * A source that no container here is known to have. It may be one not learned yet; another node's it is
 * not, nor does a packet from outside the overlay enter it.
 */
static __always_inline enum reason unknown_source(enum version v, const void *ip, struct route route)
{
	__u32 from = route_host(v, ip_src(v, ip));

	if (from == HOST_SELF)
		return PASS_UNKNOWN_SOURCE;
	if (from != HOST_NONE || route.host >= HOST_FIRST)
		return DROP_CONTAINER_SOURCE;
	return PASS_UNKNOWN_SOURCE;
}

static __always_inline enum reason walk_from_container(struct walk *w)
{
	struct endpoint *from, *to;
	struct packet p;
	struct route route;
	int reason = packet_read(w, &p);

	if (reason != ONWARD)
		return reason;
	/* A router has to read them. */
	if (has_options(w->version, p.ip))
		return PASS_OPTIONS;
	/* First, for of all memory the slot is the least likely to be in a cache: the next lookup runs meanwhile. */
	route = route_lookup(w->version, ip_dst(w->version, p.ip));
	from = endpoint_lookup(w->version, ip_src(w->version, p.ip));
	if (!from)
		return unknown_source(w->version, p.ip, route);
	if (from->ifindex != w->skb->ifindex)
		return DROP_CONTAINER_SOURCE;
	/* Endpoints are of this node's subnet: what goes to a peer's need not ask for one. */
	to = route.host < HOST_FIRST ? endpoint_lookup(w->version, ip_dst(w->version, p.ip)) : NULL;
	if (to)
		return to_neighbour(w, &p, from, to);
	return to_remote(w, &p, from, route);
}

static __always_inline int from_container_of(struct __sk_buff *skb, enum version v)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_CONTAINER, v);

	return verdict(&w, walk_from_container(&w));
}

static __noinline int from_container_ipv6(struct __sk_buff *skb)
{
	return from_container_of(skb, IPV6);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	return is_ipv6(skb) ? from_container_ipv6(skb) : from_container_of(skb, IPV4);
}
