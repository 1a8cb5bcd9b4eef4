// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * tc ingress of bpfnet0 and bpfnet0-v6: what comes out of the overlay towards this node's stack. A kernel vxlan device
 * listens on every interface and knows no peers, so only what from_network has checked goes on.
 */
#include "include/verdict.h"

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_OVERLAY, IPV4);

	if ((skb->mark & MARK_CHECKED) != MARK_CHECKED)
		return verdict(&w, DROP_UNCHECKED);
	skb->mark &= ~MARK_CHECKED;
	return verdict(&w, PASS_CHECKED);
}
