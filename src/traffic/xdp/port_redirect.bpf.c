// Steers TCP packets to luna's AF_XDP sockets by destination port; everything else is the kernel's.
//
// A packet is redirected only if all of this holds, and passed to the kernel untouched otherwise:
//   - Ethernet without a VLAN tag (a tagged frame belongs to another interface), IPv4 that is not
//     a fragment or IPv6 without extension headers, TCP, all headers in the first buffer;
//   - its destination is an address of this host on this interface (a router or a bridge keeps
//     what it forwards);
//   - its destination port is ours on the receive queue that it arrived on, and where it is ours
//     only conditionally, the condition holds: see enum port_owner;
//   - a socket is bound to that queue.
//
// Several processes may share an interface. Each owns some of its receive queues, and says for
// these alone which ports are its own: it serves nobody else's packets, and what reaches a queue
// whose owner does not serve the port is the kernel's.
//
// The few definitions of the BPF ABI that it needs are written out here, so that building it
// takes clang and nothing else.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define MAP_TYPE(id) int (*type)[id]
#define MAP_SIZE(n) int (*max_entries)[n]

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((u16)__builtin_bswap16(x))
#define be32(x) ((u32)__builtin_bswap32(x))
#else
#define be16(x) ((u16)(x))
#define be32(x) ((u32)(x))
#endif

// --- uapi/linux/bpf.h ------------------------------------------------------------------------

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6,
       BPF_MAP_TYPE_XSKMAP = 17 };
enum { XDP_PASS = 2, XDP_REDIRECT = 4 };
enum { BPF_TCP_LISTEN = 10 };
#define BPF_F_CURRENT_NETNS ((u64)-1)

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port;
	u16 dst_port;
	u16 : 16;
	u32 dst_ip4;
	u32 dst_ip6[4];
	u32 state;
};

struct tuple4 {
	u32 saddr, daddr;
	u16 sport, dport;
};

struct tuple6 {
	u32 saddr[4], daddr[4];
	u16 sport, dport;
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*bpf_sk_release)(void *sk) = (void *)86;
static struct bpf_sock *(*bpf_skc_lookup_tcp)(void *ctx, void *tuple, u32 size, u64 netns,
					      u64 flags) = (void *)99;

// --- headers on the wire ---------------------------------------------------------------------

enum { ETH_P_IP = 0x0800, ETH_P_IPV6 = 0x86dd };
enum { PROTOCOL_TCP = 6 };
enum { TCP_SYN = 0x02, TCP_ACK = 0x10 };

struct ethernet {
	u8 dst[6], src[6];
	u16 type;
} __attribute__((packed));

struct ipv4 {
	u8 version_ihl;
	u8 tos;
	u16 total_length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 saddr;
	u32 daddr;
} __attribute__((packed));

struct ipv6 {
	u32 version_class_flow;
	u16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u32 saddr[4];
	u32 daddr[4];
} __attribute__((packed));

struct tcp {
	u16 sport;
	u16 dport;
	u32 seq;
	u32 ack;
	u16 offset_flags;
	u16 window;
	u16 checksum;
	u16 urgent;
} __attribute__((packed));

// --- maps (user space knows them by these names: src/traffic/xdp/mod.rs) ---------------------

struct address {
	u32 word[4];
};

enum port_owner {
	OWNER_KERNEL = 0, // as without an entry
	OWNER_LUNA = 1,
	// but for 4-tuples of which the kernel has a connection
	OWNER_LUNA_UNLESS_KERNEL_CONNECTION = 2,
	// the same, and new connections are the kernel's
	OWNER_LUNA_NO_NEW_CONNECTION = 3,
	// the same, and none that has begun waits to be accepted
	OWNER_LUNA_RELIEVED = 4,
};

// Receive queue << 16 | destination port (host order) -> enum port_owner. The name stands for the
// layout: a process that finds this program attached, and this map, shares it.
struct {
	MAP_TYPE(BPF_MAP_TYPE_HASH);
	MAP_SIZE(16384);
	u32 *key;
	u8 *value;
} queue_owners SEC(".maps");

// Our addresses on this interface; IPv4 as ::ffff:a.b.c.d. The value means nothing.
struct {
	MAP_TYPE(BPF_MAP_TYPE_HASH);
	MAP_SIZE(1024);
	struct address *key;
	u8 *value;
} local_addrs SEC(".maps");

// Receive queue -> AF_XDP socket.
struct {
	MAP_TYPE(BPF_MAP_TYPE_XSKMAP);
	MAP_SIZE(1024);
	u32 *key;
	u32 *value;
} xsks_map SEC(".maps");

enum { COUNTER_PASSED = 0, COUNTER_REDIRECTED = 1 };

struct {
	MAP_TYPE(BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_SIZE(2);
	u32 *key;
	u64 *value;
} counters SEC(".maps");

// --- the program -----------------------------------------------------------------------------

struct flow {
	struct address saddr, daddr;
	u16 sport, dport; // network order
	u8 is_ipv6;
	u8 is_opening; // SYN without ACK
};

// Fills in `flow`; false for whatever is not plain TCP over IP.
INLINE int parse(struct xdp_md *ctx, struct flow *flow)
{
	void *at = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	struct ethernet *eth = at;
	if ((void *)(eth + 1) > end)
		return 0;
	u16 type = eth->type;
	at = eth + 1;

	if (type == be16(ETH_P_IP)) {
		struct ipv4 *ip = at;
		if ((void *)(ip + 1) > end)
			return 0;
		u32 header_words = ip->version_ihl & 0x0f;
		if (ip->version_ihl >> 4 != 4 || header_words < 5)
			return 0;
		// More fragments, or not the first one.
		if (ip->fragment & be16(0x3fff))
			return 0;
		if (ip->protocol != PROTOCOL_TCP)
			return 0;
		flow->saddr.word[2] = flow->daddr.word[2] = be32(0xffff);
		flow->saddr.word[3] = ip->saddr;
		flow->daddr.word[3] = ip->daddr;
		at += header_words * 4;
	} else if (type == be16(ETH_P_IPV6)) {
		struct ipv6 *ip = at;
		if ((void *)(ip + 1) > end)
			return 0;
		if (ip->next_header != PROTOCOL_TCP)
			return 0;
		flow->is_ipv6 = 1;
		__builtin_memcpy(&flow->saddr, ip->saddr, sizeof(flow->saddr));
		__builtin_memcpy(&flow->daddr, ip->daddr, sizeof(flow->daddr));
		at = ip + 1;
	} else {
		return 0;
	}

	struct tcp *tcp = at;
	if ((void *)(tcp + 1) > end)
		return 0;
	flow->sport = tcp->sport;
	flow->dport = tcp->dport;
	flow->is_opening = (tcp->offset_flags & be16(TCP_SYN | TCP_ACK)) == be16(TCP_SYN);
	return 1;
}

// Whether a kernel socket that is no listener has this 4-tuple: established, in a handshake, or
// in TIME-WAIT.
INLINE int kernel_has_connection(struct xdp_md *ctx, struct flow *flow)
{
	struct bpf_sock *sk;
	if (flow->is_ipv6) {
		struct tuple6 tuple = { .sport = flow->sport, .dport = flow->dport };
		__builtin_memcpy(tuple.saddr, &flow->saddr, sizeof(tuple.saddr));
		__builtin_memcpy(tuple.daddr, &flow->daddr, sizeof(tuple.daddr));
		sk = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple), BPF_F_CURRENT_NETNS, 0);
	} else {
		struct tuple4 tuple = { .saddr = flow->saddr.word[3], .daddr = flow->daddr.word[3],
					.sport = flow->sport, .dport = flow->dport };
		sk = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return 0;
	int connection = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return connection;
}

INLINE int steer(struct xdp_md *ctx)
{
	struct flow flow = {};
	if (!parse(ctx, &flow))
		return XDP_PASS;

	u32 port = ctx->rx_queue_index << 16 | be16(flow.dport);
	u8 *owner = bpf_map_lookup_elem(&queue_owners, &port);
	if (!owner || *owner == OWNER_KERNEL)
		return XDP_PASS;
	if (!bpf_map_lookup_elem(&local_addrs, &flow.daddr))
		return XDP_PASS;
	if (*owner >= OWNER_LUNA_NO_NEW_CONNECTION && flow.is_opening)
		return XDP_PASS;
	if (*owner != OWNER_LUNA && kernel_has_connection(ctx, &flow))
		return XDP_PASS;
	return bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS);
}

SEC("xdp.frags")
int luna_steer(struct xdp_md *ctx)
{
	int verdict = steer(ctx);
	u32 key = verdict == XDP_REDIRECT ? COUNTER_REDIRECTED : COUNTER_PASSED;
	u64 *counter = bpf_map_lookup_elem(&counters, &key);
	if (counter)
		(*counter)++;
	return verdict;
}

// No helper that it calls is reserved to GPL programs.
char program_license[] SEC("license") = "Apache-2.0 OR MIT";
