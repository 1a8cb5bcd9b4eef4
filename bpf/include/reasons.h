/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every way out of every program. Numbers stand in pinned counters: append, never reorder.
 * Go takes the names from BTF, so there is no second list: FORWARD_DELIVERED is shown as
 * verdict "forward", reason "delivered".
 */
#ifndef BPFNET_REASONS_H
#define BPFNET_REASONS_H

#include "kernel.h"

enum __packed program {
	PROGRAM_FROM_CONTAINER = 0,
	PROGRAM_FROM_NETWORK = 1,
	PROGRAM_FROM_HOST = 2,
	PROGRAM_FROM_OVERLAY = 3,
	PROGRAM_FROM_VETH = 4,
	PROGRAM_FROM_WIRE = 5,
	PROGRAM_MAX = 8,
};

enum __packed reason {
	/* Carried on by us. */
	FORWARD_ENCAPSULATED = 0, /* to a remote host, outer header pushed */
	FORWARD_ROUTED = 1,	  /* to a remote host as it is (host-gw) */
	FORWARD_LOCAL = 2,	  /* from one container of this node to another */
	FORWARD_DELIVERED = 3,	  /* from the underlay into a container */
	FORWARD_TO_HOST = 4,	  /* decapsulated, then to this node's stack by way of bpfnet0 */
	FORWARD_TO_OVERLAY = 5, /* to a remote host, by bpfnet0 and from_veth, which counts it too */
	FORWARD_DECAPSULATED = 6, /* at XDP: from_network, which counts it too, has the inner packet next */
	FORWARD_SPREAD = 7, /* at XDP: checked, and by way of another CPU to from_network, likewise */

	/* Left to the kernel, untouched. */
	PASS_PROTOCOL = 16,	  /* no IP of a family in use, or VLAN-tagged */
	PASS_MALFORMED = 17,	  /* truncated, or lengths that contradict each other */
	PASS_OPTIONS = 18,	  /* IP options, hop-by-hop options */
	PASS_TTL = 19,		  /* would expire here: the kernel answers */
	PASS_NOT_ROUTED = 20,	  /* Ethernet destination is not the gateway: bridged, broadcast */
	PASS_UNKNOWN_SOURCE = 21, /* container address not learned yet */
	PASS_NO_ROUTE = 22,	  /* destination is outside the overlay */
	PASS_LOCAL = 23,    /* destination is this node: its own address, or not learned yet */
	PASS_TOO_BIG = 24,  /* over the path MTU: the kernel answers or fragments */
	PASS_NOT_OURS = 25, /* no tunnel packet of this network */
	PASS_OUTER_FRAGMENT = 26,   /* the kernel puts tunnel packets together */
	PASS_INNER_NOT_ROUTED = 27, /* VXLAN frame that is not IP for our VTEP: the kernel's device */
	PASS_NOT_ENCAPSULABLE = 28, /* superpacket of a kind a program cannot encapsulate, or in a tunnel of a container */
	/* out of bpfnet0, where from_network let it in; or at XDP, where decapsulation is left to tc */
	PASS_CHECKED = 29,
	PASS_UDP_SUPERPACKET = 30, /* the kernel's device makes it one that can be cut again */
	PASS_NAT = 31,		   /* of a connection that this node's conntrack translates */
	PASS_NAT_UNKNOWN = 32,	   /* perhaps of one: conntrack cannot be asked about this packet */
	PASS_SCATTERED = 33,	   /* at XDP: not all headers are in the first buffer */
	PASS_LINK_SCOPE = 34, /* IPv6 multicast, link-local addresses, neighbour discovery: the link's own */
	PASS_UDP_CHECKSUM = 35, /* the tunnel's UDP checksum takes reading, or cutting up, the whole packet */

	/* Dropped. */
	DROP_CONTAINER_SOURCE = 40, /* a container used an address that is not its own, nor of this subnet */
	DROP_NODE_SOURCE = 41,	    /* source is neither of this node's subnet nor this node */
	DROP_UNKNOWN_HOST = 42,	    /* tunnel packet from a node that etcd does not know */
	DROP_SPOOFED_SOURCE = 43,   /* (inner) source is not of the sending node's subnet */
	DROP_INNER_MALFORMED = 44,  /* inner packet truncated or no IP */
	DROP_ECN = 45,		    /* congestion marked on a flow without ECN (RFC 6040, 4.2) */
	DROP_ENCAPSULATE = 46,	    /* the kernel refused to make room for the header */
	DROP_DECAPSULATE = 47,	    /* or to remove it */
	DROP_REDIRECT = 48,	    /* or to redirect */
	DROP_UNSENDABLE = 49,	    /* left to bpfnet0, which is no tunnel device in this mode */
	DROP_TUNNEL_MALFORMED = 50, /* tunnel packet as no node of ours sends it */
	DROP_UNCHECKED = 51,	    /* out of bpfnet0, but not by way of from_network */
	DROP_WIRE_MAC = 52, /* a frame from the wire with the address that from_wire marks its packets by */
	REASON_MAX = 64,
};

/* A check that found nothing to end the walk for. */
enum { ONWARD = -1 };

#define REASON_IS_FORWARD(r) ((r) < PASS_PROTOCOL)
#define REASON_IS_PASS(r) (!REASON_IS_FORWARD(r) && !REASON_IS_DROP(r))
#define REASON_IS_DROP(r) ((r) >= DROP_CONTAINER_SOURCE)

#endif
