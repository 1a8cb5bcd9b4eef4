/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The map ABI: every key and value the datapath shares with user space.
 *
 * Go's types are generated from these by bpf2go. Pinned maps outlive a daemon,
 * so a size here changes only together with the map's name in maps.h.
 * Padding is spelled out: keys are compared and hashed byte by byte.
 */
#ifndef BPFNET_TYPES_H
#define BPFNET_TYPES_H

#include "reasons.h"

/* An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). Network byte order. */
struct addr {
	__be32 word[4];
};

struct mac {
	__u8 byte[6];
};

/* routes, an LPM trie: which host a destination belongs to. */
struct route_key {
	__u32 prefix_len; /* bits of what follows: 32 for the network, then the address (IPv4: 96 + length) */
	__be32 network; /* the trie matches bits from the left, hence network byte order */
	struct addr addr;
};

/*
 * A host's number, its place in the hosts array. HOST_NONE marks an empty route_slot.
 * HOST_SELF is this node: its subnet routes there, and nothing is ever sent by that entry.
 */
enum host_index {
	HOST_NONE = 0,
	HOST_SELF = 1,
	HOST_FIRST = 2,
};

/*
 * route_index, an array: a route, and of its host what its packets have for themselves, so that most
 * packets need no other memory of which there is one a node.
 *
 * A slot is changed under its readers, who in practice see each half of it (an aligned word) as it was before
 * or after; the kernel copies it by memcpy and promises less. What is wanted of both is taken where the tag
 * agrees, and else from hosts.
 */
struct route_slot {
	__u32 host;	/* index in hosts */
	__be32 node;	/* that host's address on the underlay; 0 where that is none of IPv4 */
	struct mac mac; /* of its VTEP, where it has one */
	__u8 template;	/* number in templates of the rest; 0: hosts has it all */
	__u8 tag;	/* the low byte of host */
} __attribute__((aligned(8)));

enum __packed encap {
	ENCAP_NONE = 0, /* plain IP to the next hop: flannel's host-gw */
	ENCAP_VXLAN = 1,
	ENCAP_IPIP = 2,
	ENCAP_UDP = 3, /* flannel's udp backend: the bare inner packet in UDP */
};

/* What the kernel's own tunnels leave to the packet, a bit each. */
enum __packed host_flags {
	HOST_SOURCE_PORT = 1 << 0, /* entropy of the inner flow as UDP source port (RFC 7348, 5) */
	HOST_INHERIT_TTL = 1 << 1, /* outer TTL = inner TTL (net/ipv4/ip_tunnel.c, ip_tunnel_xmit) */
	HOST_INHERIT_DF = 1 << 2,  /* outer DF |= inner DF (likewise) */
	HOST_FLOW_LABEL = 1 << 3,  /* entropy of the inner flow as IPv6 flow label (RFC 6438) */
	HOST_CHECKSUM = 1 << 4, /* UDP checksum: over IPv6 the receiver may insist on one (RFC 8200, 8.1) */
	HOST_IPV6 = 1 << 5,	/* next hop and outer header are IPv6's */
	HOST_ETHERNET = 1 << 6, /* the uplink has Ethernet headers: next_hops may know its MACs */
};

#define HEADER_MAX 72

/*
 * hosts, an array: all that is needed to send to a node. An entry is never changed while a
 * route points to it (a reader could see half of it): a change is a new entry and a new route.
 *
 * templates, an array: the same for many nodes at once, and as immutable. In it are zero, and summed up as
 * such, what route_slot has: node and outer destination, the VTEP's MAC, and a next hop that is the node.
 */
struct host {
	struct addr node; /* outer destination; also the only outer source its packets may carry */
	struct addr next_hop; /* the node itself, or the router towards it */
	__u32 ifindex;	      /* uplink */
	__u16 mtu;	      /* largest inner IP packet, bytes; of a GSO packet, each segment */
	enum encap encap;
	enum host_flags flags;
	__u64 adjust;	 /* flags for bpf_skb_adjust_room to push the header */
	__u8 header_len; /* 0; over IPv4 20, 28 or 50; over IPv6 40 or 70 */
	__u8 pad[7];
	/*
	 * The finished outer header, from the outer IP header to
	 * where the inner IP header starts. Zero in it: IP lengths, ID and flow label, UDP length
	 * (and source port with HOST_SOURCE_PORT). The IPv4 checksum field holds the folded one's
	 * complement sum of the header as it stands, not yet inverted; the UDP one, with
	 * HOST_CHECKSUM, that of pseudo header, UDP header, and all behind it.
	 */
	__u8 header[HEADER_MAX];
};

/* neigh and endpoints, hashes. */
struct ip_key {
	__u32 network;
	struct addr addr;
};

/* neigh: the MAC behind an address of the overlay, as etcd has it. */
struct neighbour {
	struct mac mac;
	__u8 pad[2];
};

/* fdb, a hash -> host index: which host a MAC of the overlay lives on. */
struct fdb_key {
	__u32 vni;
	struct mac mac;
	__u8 pad[2];
};

/* endpoints: a container of this node. */
struct endpoint {
	__u32 ifindex;	/* host end of its veth */
	struct mac mac; /* of the container's end */
	struct mac gateway; /* what it resolves its gateway to: the bridge, or the host end of its veth */
};

/*
 * endpoint_index, an array: endpoints that are found in one step. An address has one place there, or none, where
 * another's is: endpoint_slot().
 */
struct endpoint_slot {
	struct addr addr; /* whose it is; zero: nobody's */
	struct endpoint endpoint;
};

/* next_hops, a per-CPU array: what the kernel said of a next hop, for a moment (nexthop.h). */
struct next_hop {
	__be32 addr;
	__u32 ifindex;
	__u32 asked;   /* when, jiffies */
	__u32 known;   /* whether it is a neighbour with a MAC */
	__u8 macs[12]; /* destination and source, as an Ethernet header has them */
	__u8 pad[4];
};

/* nat, an array of 1: whether this node translates destinations, and who knows of which connections. */
enum nat_mode {
	NAT_NONE = 0,	   /* no connection is translated */
	NAT_CONNTRACK = 1, /* conntrack knows them */
	NAT_OTHER = 2,	   /* something else, that cannot be asked (IPVS) */
};

/* counters, a per-CPU array indexed by program * REASON_MAX + reason. */
struct counter {
	__u64 packets;
	__u64 bytes; /* as the program got the packet, Ethernet header included; a superpacket counts once */
};

/* events, a ring buffer: drops, sampled as verdict.h says. */
struct event {
	__u64 time;  /* CLOCK_MONOTONIC, nanoseconds */
	__u64 count; /* packets of this program and reason so far on this CPU, this one included */
	__u32 ifindex;	 /* where the program ran */
	__u32 len;	 /* bytes of the packet, Ethernet header included */
	struct addr src; /* of the innermost IP header reached; zero if none was */
	struct addr dst;
	struct addr outer_src; /* of the outer IP header; zero where there is none */
	enum program program;
	enum reason reason;
	__u8 pad[6];
};

_Static_assert(sizeof(struct route_key) == 24, "map ABI");
_Static_assert(sizeof(struct route_slot) == 16, "map ABI: four to a cache line");
_Static_assert(sizeof(struct host) == 128, "map ABI: two cache lines");
_Static_assert(sizeof(struct ip_key) == 20, "map ABI");
_Static_assert(sizeof(struct neighbour) == 8, "map ABI");
_Static_assert(sizeof(struct fdb_key) == 12, "map ABI");
_Static_assert(sizeof(struct endpoint) == 16, "map ABI");
_Static_assert(sizeof(struct endpoint_slot) == 32, "map ABI: two to a cache line");
_Static_assert(sizeof(struct next_hop) == 32, "map ABI");
_Static_assert(sizeof(struct counter) == 16, "map ABI");
_Static_assert(sizeof(struct event) == 80, "map ABI");

#endif
