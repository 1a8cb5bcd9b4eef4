/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, and the settings fixed at load. User space writes all but next_hops, counters and events.
 * max_entries here are defaults; the loader sets what the daemon was told.
 */
#ifndef BPFNET_MAPS_H
#define BPFNET_MAPS_H

#include "types.h"

#define SPREAD_MAX 64
#define TEMPLATE_MAX 256    /* as many as route_slot can name, none included */
#define ENDPOINT_SLOTS 1024 /* of each address family, a power of two */
#define NEXT_HOP_SLOTS 256  /* a power of two: the nodes of a /24 share none */

/* What the programs have to know of one address family. */
struct family {
	/* The window of route_index that has this family's subnets. */
	__u64 index_base[2]; /* first address of its first slot, host byte order, upper half first; IPv4: 32 bits of the lower */
	__u32 index_shift; /* 32 or 128 - prefix length of a slot */
	__u32 index_first; /* number of its first slot */
	__u32 index_count; /* slots in use; 0: no index */
	/* Of packets whose outer header is of this family. */
	struct addr node;	/* this node's address on the underlay; zero: none */
	__u32 overlay_ifindex;	/* bpfnet0, or bpfnet0-v6; 0 where there is none (host-gw) */
	struct mac overlay_mac; /* that one's, which is this node's VTEP MAC */
	__u8 used; /* by containers or nodes; what is IPv6 and not used is left alone */
	__u8 pad[1];
};

/*
 * Settings of one load of the programs. Read-only to the verifier, which removes the code of what
 * is switched off; a change means loading the programs anew and replacing them in place.
 */
struct settings {
	struct family ipv4;
	struct family ipv6;
	__u32 network;	   /* of the containers these programs serve; part of the maps' keys */
	__u32 vni;	   /* host byte order */
	__be16 vxlan_port; /* 0: no VXLAN */
	__be16 udp_port;   /* of flannel's udp backend; 0: none */
	__u8 ipip;	   /* decapsulate IP in IP: protocols 4 and 41 */
	__u8 direct;	   /* take plain packets of host-gw peers past the kernel */
	__u8 conntrack;	   /* the kernel can be asked about connections (nat.h) */
	__u8 spread; /* CPUs in use of those in cpu; 0: from_wire leaves packets where they are */
	struct mac uplink_mac; /* from_wire: frames for another are none of ours */
	struct mac wire_mac; /* from_wire puts it on what it decapsulates (wire.h); 0: it leaves that to tc */
	__u16 cpu[SPREAD_MAX]; /* keys of cpus */
	__u8 pad[4];
};

const volatile struct settings config;

/* The queues to the CPUs that IPIP packets are spread over; empty where they are not. */
struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bpf_cpumap_val);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, enum host_index);
} routes SEC(".maps");

/*
 * In front of routes: one slot for each prefix of the network's usual length. A slot is empty
 * (HOST_NONE) where routes holds something longer inside it, so the longest prefix still wins.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE); /* for its alignment: no slot lies in two cache lines */
	__type(key, __u32);
	__type(value, struct route_slot);
} route_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct host);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPLATE_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct host);
} templates SEC(".maps");

/* Which host has an underlay address: asked only where the route of the inner source does not say. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, enum host_index);
} nodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_key);
	__type(value, struct neighbour);
} neigh SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fdb_key);
	__type(value, enum host_index);
} fdb SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct ip_key);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* In front of endpoints, which has all of them: IPv4's slots, then IPv6's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * ENDPOINT_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE); /* for its alignment */
	__type(key, __u32);
	__type(value, struct endpoint_slot);
} endpoint_index SEC(".maps");

/* Of each CPU's own: programs at tc follow each other there, and nobody sees half of an entry. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NEXT_HOP_SLOTS);
	__type(key, __u32);
	__type(value, struct next_hop);
} next_hops SEC(".maps");

/* Written when it changes: programs and pinned maps stay as they are when a host's first rule comes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, enum nat_mode);
} nat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROGRAM_MAX *REASON_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
	__type(value, struct event);
} events SEC(".maps");

#endif
