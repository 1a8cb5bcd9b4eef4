/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one way out: every program ends in verdict() (from_wire, whose verdicts have other numbers, in
 * xdp_verdict()), which counts and, for drops, samples.
 */
#ifndef BPFNET_VERDICT_H
#define BPFNET_VERDICT_H

#include "ip.h"

/*
 * The bits of skb->mark that say: from_network has checked who sent this. They stay with the packet on
 * its way through this namespace's stack (with a fragmented one by its first fragment), are gone once a
 * packet crosses into another (skb_scrub_packet() in net/core/skbuff.c), and from_overlay takes them off.
 */
#define MARK_CHECKED 0x00b90000

/* An address as it stands in the packet: of IPv4 the first word, so that the others cost it nothing. */
struct seen {
	__be32 word[4];
};

/* One packet on its way through one program. */
struct walk {
	struct __sk_buff *skb; /* of the programs at tc; NULL in from_wire */
	struct xdp_md *xdp;    /* of from_wire, as is the next */
	__u32 ifindex;
	enum program program;
	__u32 len;	      /* of the packet as the program got it */
	long action;	      /* what the redirect helper returned, for FORWARD reasons */
	enum version version; /* of the packet, or what is inside the tunnel packet */
	enum version outer_version;
	/* What the event tells of a drop; zero where the walk did not come that far. */
	struct seen outer_src;
	struct seen src;
	struct seen dst;
};

static __always_inline struct walk walk_start(struct __sk_buff *skb, enum program program,
					      enum version version)
{
	struct walk w = {
		.skb = skb,
		.program = program,
		.len = skb->len,
		.version = version,
		.outer_version = version,
	};

	return w;
}

/* Whether a program has to go by its IPv6 half. */
static __always_inline int is_ipv6(const struct __sk_buff *skb)
{
	return config.ipv6.used && unlikely(skb->protocol == bpf_htons(ETH_P_IPV6));
}

static __always_inline void see(enum version v, struct seen *to, const __be32 *ip)
{
	to->word[0] = ip[0];
	if (v == IPV4)
		return;
	to->word[1] = ip[1];
	to->word[2] = ip[2];
	to->word[3] = ip[3];
}

static __always_inline struct addr seen_addr(enum version v, const struct seen *seen)
{
	return v == IPV4 && !seen->word[0] ? (struct addr){} : addr_of(v, seen->word);
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
		.src = seen_addr(w->version, &w->src),
		.dst = seen_addr(w->version, &w->dst),
		.outer_src = seen_addr(w->outer_version, &w->outer_src),
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
