/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which host an address of the overlay belongs to. */
#ifndef BPFNET_ROUTE_H
#define BPFNET_ROUTE_H

#include "verdict.h"

/* The bits of an address that tell subnets apart, counted from the first slot's: its number, or ~0. */
static __always_inline __u64 index_slot_ipv6(const __be32 *ip)
{
	__u64 upper = (__u64)bpf_ntohl(ip[0]) << 32 | bpf_ntohl(ip[1]);
	__u64 lower = (__u64)bpf_ntohl(ip[2]) << 32 | bpf_ntohl(ip[3]);
	__u32 shift = config.ipv6.index_shift;

	upper -= config.ipv6.index_base[0] + (lower < config.ipv6.index_base[1]);
	lower -= config.ipv6.index_base[1];
	if (shift >= 64)
		return upper >> (shift - 64);
	if (upper >> shift)
		return ~0ULL;
	return lower >> shift | upper << (-shift & 63);
}

static __always_inline __u64 index_slot(enum version v, const __be32 *ip)
{
	if (v == IPV6)
		return index_slot_ipv6(ip);
	return (bpf_ntohl(*ip) - (__u32)config.ipv4.index_base[1]) >> config.ipv4.index_shift;
}

/* Where an address belongs. */
struct route {
	__u32 host;		       /* a number in hosts, or HOST_NONE */
	__be32 node;		       /* of its slot; 0 where there is none */
	const struct route_slot *slot; /* NULL where the trie knew */
};

static __always_inline struct route trie_lookup(enum version v, const __be32 *ip)
{
	struct route_key key = {
		.prefix_len = 32 + 128,
		.network = bpf_htonl(config.network),
		.addr = addr_of(v, ip),
	};
	__u32 *host = bpf_map_lookup_elem(&routes, &key);

	return (struct route){ .host = host ? *host : HOST_NONE };
}

/* One step for subnets of the usual length, whatever their number. */
static __always_inline struct route route_lookup(enum version v, const __be32 *ip)
{
	__u64 n = index_slot(v, ip), half = HOST_NONE;
	const struct route_slot *slot = NULL;
	__u32 key;

	if (n < family(v)->index_count) {
		key = v == IPV4 ? n : n + config.ipv6.index_first; /* IPv4's come first */
		slot = bpf_map_lookup_elem(&route_index, &key);
		if (slot)
			half = *(const volatile __u64 *)&slot->host;
	}
	if ((__u32)half == HOST_NONE)
		return trie_lookup(v, ip);
	return (struct route){ .host = half, .node = half >> 32, .slot = slot };
}

/* A number in hosts, or HOST_NONE. */
static __always_inline __u32 route_host(enum version v, const __be32 *ip)
{
	return route_lookup(v, ip).host;
}

static __always_inline struct host *host_lookup(__u32 index)
{
	return bpf_map_lookup_elem(&hosts, &index);
}

/* The place of a container's address in endpoint_index: in a subnet of up to ENDPOINT_SLOTS no two share one. */
static __always_inline __u32 endpoint_slot(enum version v, const __be32 *ip)
{
	__u32 n = bpf_ntohl(ip[v == IPV4 ? 0 : 3]) % ENDPOINT_SLOTS;

	return v == IPV4 ? n : ENDPOINT_SLOTS + n;
}

/* No container is at ::, nor at any address that begins as that: such a slot may be nobody's. */
static __always_inline struct endpoint *endpoint_lookup(enum version v, const __be32 *ip)
{
	__u32 n = endpoint_slot(v, ip);
	struct endpoint_slot *slot = bpf_map_lookup_elem(&endpoint_index, &n);
	struct ip_key key;

	if (likely(slot && (v == IPV4 || ip[0]) && addr_is(&slot->addr, v, ip)))
		return &slot->endpoint;
	key = (struct ip_key){ .network = config.network, .addr = addr_of(v, ip) };
	return bpf_map_lookup_elem(&endpoints, &key);
}

/*
 * Whether the node at outer may send from inner: an address of its subnet, or its own (a node's
 * stack answers a container from the address the container asked). ONWARD if so.
 */
static __always_inline int check_source(enum version outer_version, const __be32 *outer,
					enum version version, const __be32 *inner)
{
	struct route route = route_lookup(version, inner);
	struct addr node = addr_of(outer_version, outer);
	struct host *host;

	if (likely(outer_version == IPV4 && route.node && route.node == *outer))
		return ONWARD;
	host = route.host >= HOST_FIRST ? host_lookup(route.host) : NULL;
	if (likely(host && addr_is(&host->node, outer_version, outer)))
		return ONWARD;
	if (!bpf_map_lookup_elem(&nodes, &node))
		return DROP_UNKNOWN_HOST;
	return version == outer_version && addr_is(&node, version, inner) ? ONWARD
									  : DROP_SPOOFED_SOURCE;
}

#endif
