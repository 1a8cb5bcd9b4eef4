/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How from_network knows what from_wire has taken out of its tunnel: by the Ethernet source, which
 * from_wire sets to an address of this node's own. From the wire such a frame does not come, for
 * from_wire drops it.
 *
 * XDP's metadata, made for this, is lost where a packet socket has cloned the packet: a program at tc
 * that writes to packets gets a copy, which has none (bpf_unclone_prologue() in net/core/filter.c,
 * pskb_expand_head()). Then tcpdump would change what becomes of a packet. Some drivers have no metadata.
 */
#ifndef BPFNET_WIRE_H
#define BPFNET_WIRE_H

#include "parse.h"

/* It is locally administered, and so not 0 where it is in use (IEEE 802, 8.2). */
static __always_inline int is_wire_mac(const __u8 *mac)
{
	return config.wire_mac.byte[0] && mac_equal(mac, config.wire_mac.byte);
}

#endif
