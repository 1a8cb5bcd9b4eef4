/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The last step to a container of this node, or to the node itself. */
#ifndef BPFNET_DELIVER_H
#define BPFNET_DELIVER_H

#include "ecn.h"
#include "route.h"

/*
 * Routes a packet whose IP header follows its Ethernet header into a container: new addresses, one
 * hop less. The packet's headers must be writable and its TTL above 1.
 */
static __always_inline void ethernet_to_endpoint(struct ethhdr *eth, const struct endpoint *ep)
{
	words_copy(eth->h_dest, ep->mac.byte, sizeof(eth->h_dest));
	words_copy(eth->h_source, ep->gateway.byte, sizeof(eth->h_source));
}

static __always_inline enum reason to_endpoint(struct walk *w, const struct endpoint *ep,
					       enum reason reason)
{
	return redirected(w, bpf_redirect_peer(ep->ifindex, 0), reason);
}

/* To this node's stack, as if the packet had come in by its tunnel's device. */
static __always_inline enum reason to_host(struct walk *w, struct ethhdr *eth)
{
	const volatile struct family *outer = family(w->outer_version);

	mac_copy(eth->h_dest, outer->overlay_mac.byte);
	w->skb->mark |= MARK_CHECKED;
	return redirected(w, bpf_redirect(outer->overlay_ifindex, BPF_F_INGRESS), FORWARD_TO_HOST);
}

#endif
