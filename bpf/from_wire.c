// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * XDP on the uplink, where --xdp has it: drops forged tunnel packets before the kernel makes an skb of
 * them, and takes the others out of their tunnel before GRO sees them. All else, and whatever is unusual,
 * goes on to from_network as it came. NAT, delivery and the hop are from_network's in any case.
 *
 * Not done here in generic mode is decapsulation (settings have no wire_mac then): GRO is over by then,
 * and what an skb says of checksums and segments inside the tunnel cannot be put right from XDP.
 */
#include "include/decap.h"
#include "include/encap.h"

/*
 * A pointer out of the context. As a plain u32 the compiler clears its upper half by two shifts, which the
 * verifier takes for arithmetic with a pointer.
 */
#define CONTEXT_POINTER(context, field)                                                            \
	({                                                                                         \
		void *p;                                                                           \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                              \
			     : "=r"(p)                                                             \
			     : "r"(context), "i"(__builtin_offsetof(typeof(*context), field)));    \
		p;                                                                                 \
	})

/*
 * To one CPU for all packets of the inner flow: a NIC that hashes outer addresses gives one queue all
 * that a node sends by IPIP. The packet stays in its tunnel, so that it is nobody's but from_network's there.
 * ONWARD where that CPU has no queue.
 */
static __always_inline int spread(struct walk *w, const struct tunnel *t, const void *ip)
{
	struct inner in = inner_describe(w->version, ip, t->cursor);
	__u64 slot = in.flow % config.spread;

	barrier_var(slot); /* or what is compared is a copy of what the verifier sees used */
	if (slot >= SPREAD_MAX)
		return ONWARD;
	w->action = bpf_redirect_map(&cpus, config.cpu[slot], XDP_PASS);
	return w->action == XDP_REDIRECT ? FORWARD_SPREAD : ONWARD;
}

static __always_inline enum reason decapsulate_at_xdp(struct walk *w, struct tunnel *t, void *ip)
{
	struct ethhdr *eth = ip - ETH_HLEN; /* over the last bytes of the outer header */
	enum version v = w->version;
	int tos = ecn_decapsulate(ip_tos(w->outer_version, t->outer), ip_tos(v, ip));

	if (tos < 0)
		return DROP_ECN;
	if (ip_tos(v, ip) != tos)
		ip_set_tos(v, ip, tos);
	mac_copy(eth->h_dest, config.uplink_mac.byte);
	mac_copy(eth->h_source, config.wire_mac.byte);
	eth->h_proto = ethertype(v);
	w->action = XDP_PASS;
	return bpf_xdp_adjust_head(w->xdp, t->len) ? DROP_DECAPSULATE : FORWARD_DECAPSULATED;
}

static __always_inline enum reason walk_from_wire(struct walk *w, struct cursor c)
{
	enum version outer = w->outer_version;
	__u32 headers = network_headers(w);
	int scattered = c.end - c.pos < w->len && c.pos + headers > c.end, reason;
	struct ethhdr *eth = take(&c, ETH_HLEN);
	struct tunnel t = {};
	void *ip;

	if (!eth)
		return scattered ? PASS_SCATTERED : PASS_MALFORMED;
	if (is_wire_mac(eth->h_source))
		return DROP_WIRE_MAC;
	if (eth->h_proto != ethertype(outer))
		return PASS_PROTOCOL;
	if (!mac_equal(eth->h_dest, config.uplink_mac.byte))
		return PASS_NOT_ROUTED;
	if (scattered)
		return PASS_SCATTERED;
	t.outer = take_ip(outer, &c, w->len - ETH_HLEN);
	if (!t.outer)
		return PASS_MALFORMED;
	t.cursor = c;
	reason = tunnel_read(w, &t);
	if (reason == ONWARD)
		reason = tunnel_check(w, &t, &ip);
	if (reason != ONWARD)
		return reason;
	if (config.spread && t.protocol != IPPROTO_UDP)
		reason = spread(w, &t, ip);
	if (reason != ONWARD)
		return reason;
	return config.wire_mac.byte[0] ? decapsulate_at_xdp(w, &t, ip) : PASS_CHECKED;
}

static __always_inline struct cursor wire_cursor(struct xdp_md *xdp)
{
	return (struct cursor){ CONTEXT_POINTER(xdp, data), CONTEXT_POINTER(xdp, data_end) };
}

static __always_inline int from_wire_of(struct xdp_md *xdp, enum version outer, enum version v)
{
	struct walk w = {
		.xdp = xdp,
		.ifindex = xdp->ingress_ifindex,
		.program = PROGRAM_FROM_WIRE,
		.version = v,
		.outer_version = outer,
		.len = bpf_xdp_get_buff_len(xdp),
	};

	return xdp_verdict(&w, walk_from_wire(&w, wire_cursor(xdp)));
}

static __noinline int from_wire_ipv6(struct xdp_md *xdp)
{
	return from_wire_of(xdp, IPV6, IPV6);
}

static __noinline int from_wire_4in6(struct xdp_md *xdp)
{
	return from_wire_of(xdp, IPV6, IPV4);
}

static __noinline int from_wire_6in4(struct xdp_md *xdp)
{
	return from_wire_of(xdp, IPV4, IPV6);
}

/* frags: packets in several buffers (jumbo frames) come here too. */
SEC("xdp.frags")
int from_wire(struct xdp_md *xdp)
{
	struct cursor c = wire_cursor(xdp);
	const struct ethhdr *eth = c.pos;

	if (config.ipv6.used && (const void *)(eth + 1) <= c.end &&
	    eth->h_proto == bpf_htons(ETH_P_IPV6))
		return config.ipip && version_inside(c, IPV6) == IPV4 ? from_wire_4in6(xdp)
								      : from_wire_ipv6(xdp);
	if (config.ipip && config.ipv6.used && version_inside(c, IPV4) == IPV6)
		return from_wire_6in4(xdp);
	return from_wire_of(xdp, IPV4, IPV4);
}
