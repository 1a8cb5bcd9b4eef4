// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * tc ingress of bpfnet0p, in udp networks: what left this node by bpfnet0, routed there by the kernel or
 * by from_container.
 *
 * A receiver of flannel's udp backend may be a process, which gets the inner packet as it is in the
 * datagram. Over a virtual wire that would be with its checksum still to be filled in, or a superpacket
 * of 64 KiB: neither is ever finished inside a tunnel that the kernel knows nothing of. bpfnet0 has no
 * offloads there, so that the kernel does both between its egress and here (validate_xmit_skb() in
 * net/core/dev.c). The backend knows IPv4 alone.
 */
#include "include/send.h"

SEC("tc")
int from_veth(struct __sk_buff *skb)
{
	struct walk w = walk_start(skb, PROGRAM_FROM_VETH, IPV4);

	enum reason reason = send_from_node(&w, CROSSED);

	/* Nobody is behind bpfnet0p. */
	if (REASON_IS_PASS(reason))
		reason = DROP_UNSENDABLE;
	return verdict(&w, reason);
}
