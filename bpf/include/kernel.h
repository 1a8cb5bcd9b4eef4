/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The part of the kernel's UAPI the datapath uses: packet headers, the program context, helpers and
 * their flags. Shipped because distributions' headers are older than the kernels bpfnet runs on.
 * Names and numbers are those of include/uapi/linux/{bpf,pkt_cls,if_ether,ip,ipv6,udp}.h.
 */
#ifndef BPFNET_KERNEL_H
#define BPFNET_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef __u16 __be16;
typedef __u32 __be32;

/* To read and write whatever is in memory by. */
typedef __u16 __attribute__((may_alias)) word16;
typedef __u32 __attribute__((may_alias)) word32;
typedef __u64 __attribute__((may_alias)) word64;

enum { false, true };
#define NULL ((void *)0)

#define SEC(name) __attribute__((section(name), used))
#define __packed __attribute__((packed))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#define __noinline __attribute__((noinline))
#define __always_inline inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* What the compiler knows of a variable's value ends here, so that it keeps to our order of checks. */
#define barrier_var(var) asm volatile("" : "+r"(var))

/* Map definitions, as libbpf and cilium/ebpf read them from BTF. */
#define __uint(name, value) int(*name)[value]
#define __type(name, type) typeof(type) *name

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bpfnet is built for little-endian machines"
#endif
#define bpf_htons(x) ((__be16)__builtin_bswap16(x))
#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_htonl(x) ((__be32)__builtin_bswap32(x))
#define bpf_ntohl(x) __builtin_bswap32(x)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_CPUMAP = 16,
	BPF_MAP_TYPE_RINGBUF = 27,
};
#define BPF_F_NO_PREALLOC (1U << 0)
#define BPF_F_MMAPABLE (1U << 10)

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

enum xdp_action {
	XDP_DROP = 1,
	XDP_PASS = 2,
	XDP_REDIRECT = 4,
};

/* The value of a cpumap. */
struct bpf_cpumap_val {
	__u32 qsize;
	__u32 prog_fd;
};

enum {
	TCX_NEXT = -1, /* clsact: TC_ACT_UNSPEC, on to the next filter */
	TC_ACT_SHOT = 2,
	TC_ACT_REDIRECT = 7,
};

/* skb->pkt_type, by the Ethernet destination. */
#define PACKET_HOST 0
#define PACKET_OTHERHOST 3
#define VLAN_VID_MASK 0x0fff

struct bpf_redir_neigh {
	__u32 nh_family;
	union {
		__be32 ipv4_nh;
		__u32 ipv6_nh[4];
	};
};
#define AF_INET 2
#define AF_INET6 10

/* The fields that IPv4 needs; the kernel has unions in their place (include/uapi/linux/bpf.h). */
struct bpf_fib_lookup {
	__u8 family;
	__u8 l4_protocol;
	__be16 sport;
	__be16 dport;
	__u16 tot_len;
	__u32 ifindex;
	__u32 tos;
	__be32 ipv4_src;
	__u32 ipv6_src_rest[3];
	__be32 ipv4_dst; /* with the answer the next hop's */
	__u32 ipv6_dst_rest[3];
	__be16 vlan[2];
	__u8 smac[6];
	__u8 dmac[6];
};
#define BPF_FIB_LOOKUP_OUTPUT (1U << 1) /* ifindex is where the packet leaves */
#define BPF_FIB_LKUP_RET_SUCCESS 0

#define BPF_F_INGRESS (1ULL << 0)
#define BPF_ADJ_ROOM_MAC 1
#define BPF_F_ADJ_ROOM_FIXED_GSO (1ULL << 0)
#define BPF_F_ADJ_ROOM_NO_CSUM_RESET (1ULL << 5)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7) /* since 6.3 */
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#define BPF_CSUM_LEVEL_DEC 2

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *xdp, int delta) = (void *)44;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static __u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *xdp) = (void *)188;
static long (*const bpf_skb_change_proto)(struct __sk_buff *skb, __be16 proto,
					  __u64 flags) = (void *)31;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 len_diff, __u32 mode,
					 __u64 flags) = (void *)50;
static long (*const bpf_fib_lookup)(struct __sk_buff *skb, struct bpf_fib_lookup *fib, int plen,
				    __u32 flags) = (void *)69;
static __u64 (*const bpf_jiffies64)(void) = (void *)118;
static void *(*const bpf_ringbuf_reserve)(void *ringbuf, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static long (*const bpf_csum_level)(struct __sk_buff *skb, __u64 level) = (void *)135;
static long (*const bpf_redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *params, int plen,
					__u64 flags) = (void *)152;
static long (*const bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)155;

/*
 * Functions of the kernel's conntrack (5.18; net/netfilter/nf_conntrack_bpf.c). Weak: without them the
 * programs load too. Of its struct bpf_ct_opts this is the first version, which later ones take as well.
 */
struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));
#define IPS_NAT_MASK (1 << 4 | 1 << 5) /* the source or the destination is translated */

struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};
#define BPF_F_CURRENT_NETNS -1
#define ENOENT 2

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
					 __u32 tuple__sz, struct bpf_ct_opts *opts, __u32 opts__sz)
	__weak __ksym;
extern void bpf_ct_release(struct nf_conn *ct) __weak __ksym;

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ICMP 1
#define IPPROTO_IPIP 4
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_IPV6 41
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132

struct ethhdr {
	__u8 h_dest[6];
	__u8 h_source[6];
	__be16 h_proto;
}; /* packed in the kernel, to no effect but that compilers read h_proto by bytes */

struct iphdr {
	__u8 ihl : 4, version : 4;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__be32 saddr;
	__be32 daddr;
};
#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

struct in6_addr {
	__be32 word[4];
};

struct ipv6hdr {
	__u8 priority : 4, version : 4;
	__u8 flow_lbl[3];
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	struct in6_addr saddr;
	struct in6_addr daddr;
};

/* include/net/ipv6.h */
struct frag_hdr {
	__u8 nexthdr;
	__u8 reserved;
	__be16 frag_off;
	__be32 identification;
};
#define IP6_OFFSET 0xfff8

/* Types of neighbour discovery (RFC 4861, 4): from router solicitation to redirect. */
#define NDISC_FIRST 133
#define NDISC_LAST 137

struct udphdr {
	__be16 source;
	__be16 dest;
	__be16 len;
	__u16 check;
};

/* RFC 7348, section 5. */
struct vxlanhdr {
	__be32 flags;
	__be32 vni; /* 24 bits, then 8 reserved */
};
#define VXLAN_FLAG_VNI 0x08000000 /* I: the VNI is valid */

#endif
