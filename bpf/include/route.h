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

/* A number in hosts, or HOST_NONE. One step for subnets of the usual length, whatever their number. */
static __always_inline __u32 route_lookup(enum version v, const __be32 *ip)
{
	__u64 n = index_slot(v, ip);
	struct route_key key;
	__u32 *host, slot;

	if (n < family(v)->index_count) {
		slot = v == IPV4 ? n : n + config.ipv6.index_first; /* IPv4's come first */
		host = bpf_map_lookup_elem(&route_index, &slot);
		if (host && *host != HOST_NONE)
			return *host;
	}
	key = (struct route_key){
		.prefix_len = 32 + 128,
		.network = bpf_htonl(config.network),
		.addr = addr_of(v, ip),
	};
	host = bpf_map_lookup_elem(&routes, &key);
	return host ? *host : HOST_NONE;
}

static __always_inline struct host *host_lookup(__u32 index)
{
	return bpf_map_lookup_elem(&hosts, &index);
}

static __always_inline struct endpoint *endpoint_lookup(enum version v, const __be32 *ip)
{
	struct ip_key key = { .network = config.network, .addr = addr_of(v, ip) };

	return bpf_map_lookup_elem(&endpoints, &key);
}

/*
 * Whether the node at outer may send from inner: an address of its subnet, or its own (a node's
 * stack answers a container from the address the container asked). ONWARD if so.
 */
static __always_inline int check_source(enum version outer_version, const __be32 *outer,
					enum version version, const __be32 *inner)
{
	__u32 index = route_lookup(version, inner);
	struct host *host = index >= HOST_FIRST ? host_lookup(index) : NULL;
	struct addr node = addr_of(outer_version, outer);

	if (likely(host && addr_is(&host->node, outer_version, outer)))
		return ONWARD;
	if (!bpf_map_lookup_elem(&nodes, &node))
		return DROP_UNKNOWN_HOST;
	return version == outer_version && addr_is(&node, version, inner) ? ONWARD
									  : DROP_SPOOFED_SOURCE;
}

#endif
