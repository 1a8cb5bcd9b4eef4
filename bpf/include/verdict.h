/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one way out: every program ends in verdict() (from_wire, whose verdicts have other numbers, in
 * xdp_verdict()), which counts and, for drops, samples.
 */
#ifndef BPFNET_VERDICT_H
#define BPFNET_VERDICT_H

#include "maps.h"

/*
 * The bits of skb->mark that say: from_network has checked who sent this. They stay with the packet on
 * its way through this namespace's stack (with a fragmented one by its first fragment), are gone once a
 * packet crosses into another (skb_scrub_packet() in net/core/skbuff.c), and from_overlay takes them off.
 */
#define MARK_CHECKED 0x00b90000

/* One packet on its way through one program. */
struct walk {
	struct __sk_buff *skb; /* of the programs at tc; NULL in from_wire */
	struct xdp_md *xdp;    /* of from_wire, as is the next */
	__u32 ifindex;
	enum program program;
	__u32 len;   /* of the packet as the program got it */
	long action; /* what the redirect helper returned, for FORWARD reasons */
	/* What the event tells of a drop; 0 where the walk did not come that far. */
	__be32 outer_src;
	__be32 src;
	__be32 dst;
};

static __always_inline struct walk walk_start(struct __sk_buff *skb, enum program program)
{
	struct walk w = { .skb = skb, .program = program, .len = skb->len };

	return w;
}

static __always_inline struct addr addr_ipv4(__be32 ip)
{
	struct addr a = { .word = { 0, 0, bpf_htonl(0xffff), ip } };

	return a;
}

/* A flood of drops must stay cheap: an event at each power of two, then every 65,536th. */
static __always_inline int sampled(__u64 count)
{
	return (count & (count - 1)) == 0 || (count & 0xffff) == 0;
}

static __always_inline void emit(const struct walk *w, enum reason reason, __u64 count)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return;
	*e = (struct event){
		.time = bpf_ktime_get_ns(),
		.count = count,
		.ifindex = w->skb ? w->skb->ifindex : w->ifindex,
		.len = w->len,
		.src = w->src ? addr_ipv4(w->src) : (struct addr){},
		.dst = w->dst ? addr_ipv4(w->dst) : (struct addr){},
		.outer_src = w->outer_src ? addr_ipv4(w->outer_src) : (struct addr){},
		.program = w->program,
		.reason = reason,
	};
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void account(const struct walk *w, enum reason reason)
{
	__u32 key = w->program * REASON_MAX + reason;
	struct counter *c = bpf_map_lookup_elem(&counters, &key);

	if (likely(c)) {
		c->packets++;
		c->bytes += w->len;
		if (REASON_IS_DROP(reason) && sampled(c->packets))
			emit(w, reason, c->packets);
	}
}

static __always_inline int verdict(const struct walk *w, enum reason reason)
{
	account(w, reason);
	if (REASON_IS_FORWARD(reason))
		return w->action;
	return REASON_IS_DROP(reason) ? TC_ACT_SHOT : TCX_NEXT;
}

static __always_inline int xdp_verdict(const struct walk *w, enum reason reason)
{
	account(w, reason);
	if (REASON_IS_FORWARD(reason))
		return w->action;
	return REASON_IS_DROP(reason) ? XDP_DROP : XDP_PASS;
}

/* The reason, once a redirect helper has said whether it will. */
static __always_inline enum reason redirected(struct walk *w, long action, enum reason reason)
{
	w->action = action;
	return likely(action == TC_ACT_REDIRECT) ? reason : DROP_REDIRECT;
}

#endif
