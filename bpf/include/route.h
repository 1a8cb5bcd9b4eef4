/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which host an address of the overlay belongs to. */
#ifndef BPFNET_ROUTE_H
#define BPFNET_ROUTE_H

#include "verdict.h"

/* A number in hosts, or HOST_NONE. One step for subnets of the usual length, whatever their number. */
static __always_inline __u32 route_lookup(__be32 ip)
{
	__u32 slot = (bpf_ntohl(ip) - (__u32)config.ipv4.index_base[1]) >> config.ipv4.index_shift;
	struct route_key key;
	__u32 *host;

	if (slot < config.ipv4.index_count) {
		host = bpf_map_lookup_elem(&route_index, &slot);
		if (host && *host != HOST_NONE)
			return *host;
	}
	key = (struct route_key){
		.prefix_len = 32 + 128,
		.network = bpf_htonl(config.network),
		.addr = addr_ipv4(ip),
	};
	host = bpf_map_lookup_elem(&routes, &key);
	return host ? *host : HOST_NONE;
}

static __always_inline struct host *host_lookup(__u32 index)
{
	return bpf_map_lookup_elem(&hosts, &index);
}

static __always_inline struct endpoint *endpoint_lookup(__be32 ip)
{
	struct ip_key key = { .network = config.network, .addr = addr_ipv4(ip) };

	return bpf_map_lookup_elem(&endpoints, &key);
}

/* volatile for the settings: to the compiler they are constants, and zero, by any other pointer. */
static __always_inline int addr_is_ipv4(const volatile struct addr *a, __be32 ip)
{
	return a->word[3] == ip && a->word[2] == bpf_htonl(0xffff) && !a->word[1] && !a->word[0];
}

/*
 * Whether the node at outer may send from inner: an address of its subnet, or its own (a node's
 * stack answers a container from the address the container asked). ONWARD if so.
 */
static __always_inline int check_source(__be32 outer, __be32 inner)
{
	__u32 index = route_lookup(inner);
	struct host *host = index >= HOST_FIRST ? host_lookup(index) : NULL;
	struct addr node = addr_ipv4(outer);

	if (likely(host && addr_is_ipv4(&host->node, outer)))
		return ONWARD;
	if (!bpf_map_lookup_elem(&nodes, &node))
		return DROP_UNKNOWN_HOST;
	return inner == outer ? ONWARD : DROP_SPOOFED_SOURCE;
}

#endif
