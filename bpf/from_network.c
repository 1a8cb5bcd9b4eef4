// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* tc ingress on the uplink: what other nodes send. */
#include "include/decap.h"
#include "include/nat.h"

/* VLAN 0 is a priority, and no VLAN, to the kernel too. */
static __always_inline int vlan_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_VID_MASK;
}

/* Leaves a packet that has been checked to the kernel's vxlan device, or a fragment to its defragmentation. */
static __always_inline enum reason pass_checked(struct walk *w, enum reason reason)
{
	w->skb->mark |= MARK_CHECKED;
	return reason;
}

/* The container that gets it, or NULL: the stack answers what expires here, and reads options. */
static __always_inline struct endpoint *receiver(enum version v, const void *ip)
{
	return ip_ttl(v, ip) > 1 && !has_options(v, ip) ? endpoint_lookup(v, ip_dst(v, ip)) : NULL;
}

/* A packet out of its tunnel, its IP header behind the Ethernet header. */
static __always_inline enum reason deliver(struct walk *w, struct ethhdr *eth,
					   const struct endpoint *to)
{
	if (!to)
		return to_host(w, eth);
	ethernet_to_endpoint(eth, to);
	ip_decrement_ttl(w->version, eth + 1);
	return to_endpoint(w, to, FORWARD_DELIVERED);
}

/* A tunnel packet of ours. All checks come first; then the outer header is taken off. */
static __always_inline enum reason decapsulate(struct walk *w, struct tunnel *t)
{
	enum version v = w->version;
	struct endpoint *to;
	struct ethhdr *eth;
	void *ip;
	int reason = tunnel_check(w, t, &ip), tos;

	if (reason != ONWARD)
		return REASON_IS_PASS(reason) ? pass_checked(w, reason) : reason;
	/*
	 * Taken out of its tunnel by us, a superpacket keeps the tunnel's marks (skb->encapsulation, bits
	 * of gso_type). TCP does not mind; UDP has to be cut into datagrams, and would be lost.
	 */
	if (ip_protocol(v, ip) == IPPROTO_UDP && t->protocol == IPPROTO_UDP && w->skb->gso_size)
		return t->inner_eth ? pass_checked(w, PASS_UDP_SUPERPACKET) : DROP_DECAPSULATE;
	tos = ecn_decapsulate(ip_tos(w->outer_version, t->outer), ip_tos(v, ip));
	if (tos < 0)
		return DROP_ECN;
	to = receiver(v, ip);
	if (to && (reason = nat_check(w, ip, t->cursor)) != ONWARD) {
		if (t->inner_eth)
			return pass_checked(w, reason);
		to = NULL; /* no tunnel device takes it: the stack gets it from us */
	}
	eth = pop_header(w, t, tos);
	return eth ? deliver(w, eth, to) : DROP_DECAPSULATE;
}

/* What from_wire has taken out of its tunnel: it has no tunnel any more to be left to the kernel in. */
static __always_inline enum reason decapsulated(struct walk *w, struct ethhdr *eth, struct cursor c)
{
	enum version v = w->version;
	void *ip = take_ip(v, &c, w->len - ETH_HLEN);
	struct endpoint *to;

	/* from_wire cannot see a tag that the NIC has taken off. */
	if (!ip || vlan_tagged(w->skb))
		return DROP_TUNNEL_MALFORMED;
	see(v, &w->src, ip_src(v, ip));
	see(v, &w->dst, ip_dst(v, ip));
	to = receiver(v, ip);
	if (to && nat_check(w, ip, c) != ONWARD)
		to = NULL;
	mac_copy(eth->h_source, config.uplink_mac.byte);
	return deliver(w, eth, to);
}

/* A plain packet of a host-gw peer to a container: what the kernel would route, in one step. */
static __always_inline enum reason route_in(struct walk *w, struct ethhdr *eth, void *ip,
					    struct cursor c, struct route route)
{
	enum version v = w->version;
	struct destination from;
	struct endpoint *to;
	int reason;

	if (w->skb->pkt_type != PACKET_HOST || has_options(v, ip) || ip_ttl(v, ip) <= 1)
		return PASS_NOT_OURS;
	to = endpoint_lookup(v, ip_dst(v, ip));
	if (!to)
		return PASS_NOT_OURS;
	if (remote_host(route, &from) != ONWARD || from.host->encap != ENCAP_NONE)
		return PASS_NOT_OURS;
	reason = nat_check(w, ip, c);
	if (reason != ONWARD)
		return reason;
	ip_decrement_ttl(v, ip);
	ethernet_to_endpoint(eth, to);
	return to_endpoint(w, to, FORWARD_DELIVERED);
}

/*
 * A plain packet to this node's subnet. By this way none comes from the subnet itself, and one from another
 * node's only where some nodes send without a tunnel: which ones they take for adjacent is up to them.
 */
static __always_inline enum reason plain(struct walk *w, struct ethhdr *eth, void *ip, struct cursor c)
{
	enum version v = w->version;
	struct route from;

	if (is_own(v, ip_dst(v, ip)) || route_host(v, ip_dst(v, ip)) != HOST_SELF)
		return PASS_NOT_OURS;
	from = route_lookup(v, ip_src(v, ip));
	if (from.host == HOST_SELF || (from.host != HOST_NONE && !config.direct)) {
		see(v, &w->src, ip_src(v, ip));
		see(v, &w->dst, ip_dst(v, ip));
		return DROP_SPOOFED_SOURCE;
	}
	return config.direct ? route_in(w, eth, ip, c, from) : PASS_NOT_OURS;
}

static __always_inline enum reason walk_from_network(struct walk *w)
{
	enum version outer = w->outer_version;
	struct cursor c = cursor_start(w->skb, network_headers(w));
	struct ethhdr *eth = take(&c, ETH_HLEN);
	struct tunnel t = {};
	int reason;

	if (!eth)
		return PASS_MALFORMED;
	if (w->version == outer && is_wire_mac(eth->h_source))
		return decapsulated(w, eth, c);
	if (eth->h_proto != ethertype(outer) || vlan_tagged(w->skb))
		return PASS_PROTOCOL;
	if (w->skb->pkt_type == PACKET_OTHERHOST)
		return PASS_NOT_ROUTED;
	t.outer = take_ip(outer, &c, w->len - ETH_HLEN);
	if (!t.outer)
		return PASS_MALFORMED;
	t.cursor = c;
	reason = tunnel_read(w, &t);
	if (reason == ONWARD)
		return decapsulate(w, &t);
	return reason == PASS_NOT_OURS && w->version == outer ? plain(w, eth, t.outer, c) : reason;
}

static __always_inline int from_network_of(struct __sk_buff *skb, enum version outer, enum version v)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_NETWORK, v);

	w.outer_version = outer;
	return verdict(&w, walk_from_network(&w));
}

static __noinline int from_network_ipv6(struct __sk_buff *skb)
{
	return from_network_of(skb, IPV6, IPV6);
}

static __noinline int from_network_4in6(struct __sk_buff *skb)
{
	return from_network_of(skb, IPV6, IPV4);
}

static __noinline int from_network_6in4(struct __sk_buff *skb)
{
	return from_network_of(skb, IPV4, IPV6);
}

static __always_inline enum version inside(struct __sk_buff *skb, enum version outer)
{
	if (!config.ipip)
		return outer;
	return version_inside(
		cursor_start(skb, ETH_HLEN + ip_header_len(outer) + sizeof(struct frag_hdr)), outer);
}

SEC("tc")
int from_network(struct __sk_buff *skb)
{
	if (is_ipv6(skb))
		return inside(skb, IPV6) == IPV4 ? from_network_4in6(skb) : from_network_ipv6(skb);
	if (config.ipv6.used && inside(skb, IPV4) == IPV6)
		return from_network_6in4(skb);
	return from_network_of(skb, IPV4, IPV4);
}
