/*
 * The C side of luna's DPDK device: what is inline in DPDK's headers, by bursts. See shim.h.
 *
 * Receiving: the mbufs of a queue have no buffers of their own. Those that are ready to receive
 * have one of luna's objects each; a received one hands its object over and waits, empty, for the
 * next. So that a driver cannot allocate an empty one, the pool they come from is of a kind of its
 * own (mempool ops "luna"): a stack of ready ones and a stack of empty ones. It is not locked: a
 * queue is used by one thread at a time.
 *
 * Sending: objects are attached to mbufs as external buffers, and let go of by the free callback,
 * which notes their cookies.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For rte_dev_dma_map, which has been there, unchanged, since 2019. */
#define ALLOW_EXPERIMENTAL_API

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_version.h>

#include "shim.h"

static_assert(RTE_PKTMBUF_HEADROOM <= 256, "objects of 2048 bytes hold a frame with its headroom");
static_assert(sizeof(((struct rte_mbuf *)0)->buf_len) == 2, "buffers of less than 64 KiB");

/* The receive buffers' mbufs, or the sending ones'. */
struct stack {
	void **objects;
	uint32_t count;
	uint32_t room;
};

struct pool_state {
	struct stack ready;
	struct stack empty;
	/* Objects that come are new, and have no buffer. */
	bool populating;
	/* Where the buffers of bare mbufs are; null in other pools. */
	const uint8_t *memory;
	uint64_t memory_bytes;
};

struct attached {
	struct rte_mbuf_ext_shared_info shared;
	uint64_t cookie;
	struct luna_dpdk_queue *queue;
};

struct luna_dpdk_queue {
	uint16_t port;
	uint16_t number;
	uint16_t tx_descriptors;
	uint32_t buffer_bytes;
	/* The device cannot see what follows. */
	bool private_memory;
	/* DPDK has been told of it. */
	bool registered;
	uint8_t *memory;
	uint64_t memory_bytes;
	/* Null if addresses are what devices see. */
	rte_iova_t *zone_iova;
	struct rte_mempool *rx_pool;
	struct rte_mempool *tx_pool;
	struct rte_mbuf *foreign[64];
	uint32_t foreign_count;
	uint64_t *done;
	uint32_t done_count;
	uint32_t done_room;
};

static inline void push(struct stack *stack, void *object)
{
	/* As many places as objects. */
	stack->objects[stack->count++] = object;
}

static int stack_open(struct stack *stack, uint32_t room)
{
	stack->objects = calloc(room, sizeof(void *));
	stack->room = room;
	return stack->objects == NULL ? -ENOMEM : 0;
}

static int pool_alloc(struct rte_mempool *pool)
{
	struct pool_state *state = calloc(1, sizeof(*state));

	if (state == NULL)
		return -ENOMEM;
	if (stack_open(&state->ready, pool->size) != 0 || stack_open(&state->empty, pool->size) != 0) {
		free(state->ready.objects);
		free(state);
		return -ENOMEM;
	}
	state->populating = true;
	pool->pool_data = state;
	return 0;
}

static void pool_free(struct rte_mempool *pool)
{
	struct pool_state *state = pool->pool_data;

	free(state->ready.objects);
	free(state->empty.objects);
	free(state);
}

static int pool_enqueue(struct rte_mempool *pool, void *const *objects, unsigned int count)
{
	struct pool_state *state = pool->pool_data;

	for (unsigned int i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = objects[i];
		bool has_buffer = !state->populating;

		/* A driver that put a buffer of its own there has lost ours. */
		if (has_buffer && state->memory != NULL)
			has_buffer = (uint64_t)((const uint8_t *)mbuf->buf_addr - state->memory) <
				     state->memory_bytes;
		push(has_buffer ? &state->ready : &state->empty, mbuf);
	}
	return 0;
}

static int pool_dequeue(struct rte_mempool *pool, void **objects, unsigned int count)
{
	struct pool_state *state = pool->pool_data;

	if (state->ready.count < count)
		return -ENOBUFS;
	for (unsigned int i = 0; i < count; i++)
		objects[i] = state->ready.objects[--state->ready.count];
	return 0;
}

static unsigned int pool_count(const struct rte_mempool *pool)
{
	const struct pool_state *state = pool->pool_data;

	return state->ready.count + state->empty.count;
}

static const struct rte_mempool_ops luna_ops = {
	.name = "luna",
	.alloc = pool_alloc,
	.free = pool_free,
	.enqueue = pool_enqueue,
	.dequeue = pool_dequeue,
	.get_count = pool_count,
};
RTE_MEMPOOL_REGISTER_OPS(luna_ops);

static const char *dpdk_version(void)
{
	return rte_version();
}

static int eal_init(int argc, char **argv)
{
	return rte_eal_init(argc, argv) < 0 ? -rte_errno : 0;
}

static int port_probe(const char *devargs, const char *name)
{
	uint16_t port;
	int error;

	/* A PCI device may have been found by the start already. */
	if (rte_eth_dev_get_port_by_name(name, &port) == 0)
		return port;
	error = rte_dev_probe(devargs);
	if (error != 0)
		return error < 0 ? error : -EIO;
	error = rte_eth_dev_get_port_by_name(name, &port);
	return error != 0 ? -ENODEV : port;
}

static int port_limits(uint16_t port, struct luna_dpdk_limits *limits)
{
	static const uint64_t checksum = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	int error = rte_eth_dev_info_get(port, &info);

	if (error != 0)
		return error;
	memset(limits, 0, sizeof(*limits));
	if (rte_eth_macaddr_get(port, &mac) == 0)
		memcpy(limits->mac, mac.addr_bytes, sizeof(limits->mac));
	if ((info.tx_offload_capa & checksum) != 0)
		limits->features |= luna_dpdk_tx_tcp_checksum;
	if ((info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0)
		limits->features |= luna_dpdk_tx_multi_segment;
	if ((info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO) != 0)
		limits->features |= luna_dpdk_tx_tso;
	if ((info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_TCP_CKSUM) != 0)
		limits->features |= luna_dpdk_rx_tcp_checksum;
	if ((info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER) != 0)
		limits->features |= luna_dpdk_rx_scatter;
	limits->mtu_max = info.max_mtu;
	limits->mtu_min = info.min_mtu;
	limits->rx_queues_max = info.max_rx_queues;
	limits->tx_queues_max = info.max_tx_queues;
	limits->iova_is_va = rte_eal_iova_mode() == RTE_IOVA_VA;
	snprintf(limits->driver, sizeof(limits->driver), "%s", info.driver_name);
	return 0;
}

static int port_setup(uint16_t port, const struct luna_dpdk_setup *setup)
{
	struct rte_eth_conf conf;
	struct rte_eth_dev_info info;
	int error = rte_eth_dev_info_get(port, &info);

	if (error != 0)
		return error;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = setup->mtu;
	if ((setup->features & luna_dpdk_rx_tcp_checksum) != 0)
		conf.rxmode.offloads |= info.rx_offload_capa &
			(RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_IPV4_CKSUM);
	if ((setup->features & luna_dpdk_rx_scatter) != 0)
		conf.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
	if ((setup->features & luna_dpdk_tx_tcp_checksum) != 0)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
	if ((setup->features & luna_dpdk_tx_tso) != 0)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO |
			(info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM);
	if ((setup->features & luna_dpdk_tx_multi_segment) != 0)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (setup->queues > 1) {
		uint64_t spread = info.flow_type_rss_offloads &
			(RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP);

		if (spread != 0) {
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
			conf.rx_adv_conf.rss_conf.rss_hf = spread;
		}
	}
	return rte_eth_dev_configure(port, setup->queues, setup->queues, &conf);
}

static int port_start(uint16_t port)
{
	int error = rte_eth_dev_start(port);

	if (error != 0)
		return error;
	/* Multicast is how neighbours are asked for. Many virtual ports know neither mode. */
	rte_eth_allmulticast_enable(port);
	return 0;
}

static int port_link(uint16_t port)
{
	struct rte_eth_link link;

	if (rte_eth_link_get_nowait(port, &link) != 0)
		return 0;
	return link.link_status == RTE_ETH_LINK_UP;
}

static int port_stats(uint16_t port, struct luna_dpdk_stats *stats)
{
	struct rte_eth_stats all;
	int error = rte_eth_stats_get(port, &all);

	if (error != 0)
		return error;
	stats->rx_missed = all.imissed;
	stats->rx_no_buffer = all.rx_nombuf;
	stats->tx_errors = all.oerrors;
	return 0;
}

static int port_close(uint16_t port)
{
	int error = rte_eth_dev_stop(port);

	if (error != 0 && error != -ENOTSUP)
		return error;
	return rte_eth_dev_close(port);
}

/* Where a device finds an address of ours. */
static inline rte_iova_t iova_of(const struct luna_dpdk_queue *queue, const void *address)
{
	uint64_t offset = (const uint8_t *)address - queue->memory;

	if (queue->zone_iova == NULL)
		return (rte_iova_t)(uintptr_t)address;
	return queue->zone_iova[offset >> 21] + (offset & ((1U << 21) - 1));
}

static void mbuf_init(struct rte_mempool *pool, void *opaque, void *object, unsigned int index)
{
	const struct luna_dpdk_queue *queue = opaque;
	struct rte_mbuf *mbuf = object;

	(void)index;
	memset(mbuf, 0, sizeof(*mbuf));
	mbuf->buf_len = queue->buffer_bytes;
	mbuf->pool = pool;
	mbuf->nb_segs = 1;
	mbuf->port = RTE_MBUF_PORT_INVALID;
	rte_mbuf_refcnt_set(mbuf, 1);
}

/* Mbufs with buffers of their own, all of them ready. */
static int pool_open(struct rte_mempool **to, uint32_t count, const char *name,
		     struct rte_pktmbuf_pool_private private)
{
	struct pool_state *state;
	struct rte_mempool *pool = rte_mempool_create_empty(name, count,
		sizeof(struct rte_mbuf) + private.mbuf_priv_size + private.mbuf_data_room_size, 0,
		sizeof(private), SOCKET_ID_ANY, 0);

	if (pool == NULL)
		return -rte_errno;
	*to = pool;
	if (rte_mempool_set_ops_byname(pool, "luna", NULL) != 0)
		return -EINVAL;
	rte_pktmbuf_pool_init(pool, &private);
	if (rte_mempool_populate_default(pool) < 0)
		return -ENOMEM;
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	state = pool->pool_data;
	state->populating = false;
	while (state->empty.count > 0)
		push(&state->ready, state->empty.objects[--state->empty.count]);
	return 0;
}

/* Bare mbufs for the receiving side. */
static int rx_pool_open(struct luna_dpdk_queue *queue, uint32_t count, const char *name)
{
	struct rte_pktmbuf_pool_private private = { .mbuf_data_room_size = queue->buffer_bytes };
	struct pool_state *state;
	struct rte_mempool *pool = rte_mempool_create_empty(name, count, sizeof(struct rte_mbuf), 0,
		sizeof(private), SOCKET_ID_ANY, 0);

	if (pool == NULL)
		return -rte_errno;
	queue->rx_pool = pool;
	if (rte_mempool_set_ops_byname(pool, "luna", NULL) != 0)
		return -EINVAL;
	rte_pktmbuf_pool_init(pool, &private);
	if (rte_mempool_populate_default(pool) < 0)
		return -ENOMEM;
	rte_mempool_obj_iter(pool, mbuf_init, queue);
	state = pool->pool_data;
	state->populating = false;
	state->memory = queue->memory;
	state->memory_bytes = queue->memory_bytes;
	return 0;
}

/* For the sending side: a little room for headers, or for all that is sent. */
static int tx_pool_open(struct luna_dpdk_queue *queue, uint32_t count, const char *name)
{
	struct rte_pktmbuf_pool_private private = {
		.mbuf_data_room_size = luna_dpdk_copy_bytes_max,
		.mbuf_priv_size = RTE_ALIGN(sizeof(struct attached), RTE_MBUF_PRIV_ALIGN),
	};

	if (queue->private_memory)
		private.mbuf_data_room_size = luna_dpdk_private_bytes_max + RTE_PKTMBUF_HEADROOM;
	return pool_open(&queue->tx_pool, count, name, private);
}

/* For the receiving side of a device that cannot see our objects. */
static int private_rx_pool_open(struct luna_dpdk_queue *queue, uint32_t count, const char *name)
{
	struct rte_pktmbuf_pool_private private = {
		.mbuf_data_room_size = (uint16_t)(queue->buffer_bytes + RTE_PKTMBUF_HEADROOM),
	};

	return pool_open(&queue->rx_pool, count, name, private);
}

/* Addresses for devices that see physical memory. */
static int map_zones(struct luna_dpdk_queue *queue)
{
	uint64_t zones = queue->memory_bytes >> 21;

	if (rte_eal_iova_mode() == RTE_IOVA_VA)
		return 0;
	queue->zone_iova = calloc(zones, sizeof(*queue->zone_iova));
	if (queue->zone_iova == NULL)
		return -ENOMEM;
	for (uint64_t i = 0; i < zones; i++) {
		queue->zone_iova[i] = rte_mem_virt2iova(queue->memory + (i << 21));
		if (queue->zone_iova[i] == RTE_BAD_IOVA)
			return -EFAULT;
	}
	return 0;
}

/*
 * Tells DPDK, and a device that reads memory itself, of the pool's memory. Virtual devices have
 * nothing to map; and a virtio-user port in the same process cannot start once there is memory
 * without a file.
 */
static int register_memory(struct luna_dpdk_queue *queue)
{
	struct rte_eth_dev_info info;
	int error = rte_eth_dev_info_get(queue->port, &info);

	if (error != 0)
		return error;
	if (info.device == NULL || strcmp(rte_bus_name(rte_dev_bus(info.device)), "vdev") == 0)
		return 0;
	error = map_zones(queue);
	if (error != 0)
		return error;
	error = rte_extmem_register(queue->memory, queue->memory_bytes, queue->zone_iova,
		queue->zone_iova == NULL ? 0 : (unsigned int)(queue->memory_bytes >> 21), 1U << 21);
	if (error != 0)
		return rte_errno == EEXIST ? 0 : -rte_errno;
	queue->registered = true;
	rte_dev_dma_map(info.device, queue->memory, iova_of(queue, queue->memory),
		queue->memory_bytes);
	return 0;
}

static void queue_free(struct luna_dpdk_queue *queue)
{
	if (queue->rx_pool != NULL)
		rte_mempool_free(queue->rx_pool);
	if (queue->tx_pool != NULL)
		rte_mempool_free(queue->tx_pool);
	if (queue->registered)
		rte_extmem_unregister(queue->memory, queue->memory_bytes);
	free(queue->zone_iova);
	free(queue->done);
	free(queue);
}

static int queue_prepare(struct luna_dpdk_queue *queue, const struct luna_dpdk_queue_setup *setup)
{
	char name[RTE_MEMPOOL_NAMESIZE];
	int error = register_memory(queue);

	if (error != 0)
		return error;
	snprintf(name, sizeof(name), "luna_rx_%u_%u", setup->port, setup->queue);
	error = queue->private_memory ? private_rx_pool_open(queue, setup->rx_buffers, name)
				      : rx_pool_open(queue, setup->rx_buffers, name);
	if (error != 0)
		return error;
	snprintf(name, sizeof(name), "luna_tx_%u_%u", setup->port, setup->queue);
	error = tx_pool_open(queue, setup->tx_buffers, name);
	if (error != 0)
		return error;
	queue->done = calloc(setup->tx_buffers, sizeof(*queue->done));
	queue->done_room = setup->tx_buffers;
	return queue->done == NULL ? -ENOMEM : 0;
}

static struct luna_dpdk_queue *queue_open(const struct luna_dpdk_queue_setup *setup, int *error)
{
	struct luna_dpdk_queue *queue = calloc(1, sizeof(*queue));

	*error = -ENOMEM;
	if (queue == NULL)
		return NULL;
	queue->port = setup->port;
	queue->number = setup->queue;
	queue->tx_descriptors = setup->tx_descriptors;
	queue->buffer_bytes = setup->buffer_bytes;
	queue->private_memory = setup->private_memory != 0;
	queue->memory = setup->memory;
	queue->memory_bytes = setup->memory_bytes;
	*error = queue_prepare(queue, setup);
	if (*error == 0)
		return queue;
	queue_free(queue);
	return NULL;
}

static int queue_set_up(struct luna_dpdk_queue *queue)
{
	uint16_t rx_descriptors = 1024, tx_descriptors = queue->tx_descriptors;
	int error = rte_eth_dev_adjust_nb_rx_tx_desc(queue->port, &rx_descriptors, &tx_descriptors);

	if (error != 0)
		return error;
	error = rte_eth_tx_queue_setup(queue->port, queue->number, tx_descriptors, SOCKET_ID_ANY, NULL);
	if (error != 0)
		return error;
	return rte_eth_rx_queue_setup(queue->port, queue->number, rx_descriptors, SOCKET_ID_ANY, NULL,
		queue->rx_pool);
}

static uint32_t rx_wanted(const struct luna_dpdk_queue *queue)
{
	const struct pool_state *state = queue->rx_pool->pool_data;

	return state->empty.count;
}

static uint32_t rx_refill(struct luna_dpdk_queue *queue, void *const *buffers, uint32_t count)
{
	struct pool_state *state = queue->rx_pool->pool_data;
	uint32_t taken = 0;

	while (taken < count && state->empty.count > 0) {
		struct rte_mbuf *mbuf = state->empty.objects[--state->empty.count];

		mbuf->buf_addr = buffers[taken];
		mbuf->buf_iova = iova_of(queue, buffers[taken]);
		push(&state->ready, mbuf);
		taken++;
	}
	return taken;
}

static inline bool is_own(const struct luna_dpdk_queue *queue, const struct rte_mbuf *mbuf)
{
	return mbuf->pool == queue->rx_pool && !queue->private_memory && RTE_MBUF_DIRECT(mbuf) &&
	       rte_mbuf_refcnt_read(mbuf) == 1;
}

/*
 * The sum is right, or (NONE) has not been computed because the frame has not been on a wire: its
 * sender is on this machine.
 */
static inline bool is_sum_good(const struct rte_mbuf *mbuf)
{
	uint64_t sum = mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;

	return sum == RTE_MBUF_F_RX_L4_CKSUM_GOOD || sum == RTE_MBUF_F_RX_L4_CKSUM_NONE;
}

/* One frame's segments; 0: it cannot be delivered and is gone. */
static uint32_t deliver(struct luna_dpdk_queue *queue, struct rte_mbuf *mbuf,
			struct luna_dpdk_segment *out)
{
	struct pool_state *state = queue->rx_pool->pool_data;
	uint32_t flags = 0, count = 0;
	bool foreign = false;

	if (is_sum_good(mbuf))
		flags = luna_dpdk_segment_checksum_good;
	for (struct rte_mbuf *part = mbuf; part != NULL; part = part->next)
		foreign |= !is_own(queue, part);
	if (mbuf->nb_segs > luna_dpdk_segments_max ||
	    (foreign && queue->foreign_count == RTE_DIM(queue->foreign))) {
		rte_pktmbuf_free(mbuf);
		return 0;
	}
	if (foreign) {
		flags |= luna_dpdk_segment_foreign;
		queue->foreign[queue->foreign_count++] = mbuf;
	}
	while (mbuf != NULL) {
		struct rte_mbuf *next = mbuf->next;

		out[count].address = rte_pktmbuf_mtod(mbuf, void *);
		out[count].len = mbuf->data_len;
		out[count].flags = flags;
		count++;
		if (!foreign) {
			/* As the pool keeps them. */
			mbuf->next = NULL;
			mbuf->nb_segs = 1;
			mbuf->buf_addr = NULL;
			push(&state->empty, mbuf);
		}
		mbuf = next;
	}
	out[count - 1].flags |= luna_dpdk_segment_last;
	return count;
}

static uint32_t rx_burst(struct luna_dpdk_queue *queue, struct luna_dpdk_segment *segments,
			 uint32_t room, uint32_t frames_max)
{
	struct rte_mbuf *mbufs[64];
	uint32_t fit = room / luna_dpdk_segments_max, count = 0;
	uint16_t received;

	if (frames_max > fit)
		frames_max = fit;
	if (frames_max > RTE_DIM(mbufs))
		frames_max = RTE_DIM(mbufs);
	received = rte_eth_rx_burst(queue->port, queue->number, mbufs, (uint16_t)frames_max);
	for (uint16_t i = 0; i < received; i++)
		count += deliver(queue, mbufs[i], segments + count);
	return count;
}

static void rx_release(struct luna_dpdk_queue *queue)
{
	rte_pktmbuf_free_bulk(queue->foreign, queue->foreign_count);
	queue->foreign_count = 0;
}

static void piece_is_read(void *address, void *opaque)
{
	struct attached *attached = opaque;
	struct luna_dpdk_queue *queue = attached->queue;

	(void)address;
	/* As many places as mbufs. */
	if (queue->done_count < queue->done_room)
		queue->done[queue->done_count++] = attached->cookie;
}

/* An mbuf for a piece; null without one. */
static struct rte_mbuf *mbuf_for(struct luna_dpdk_queue *queue, const struct luna_dpdk_piece *piece)
{
	struct rte_mbuf *mbuf = rte_pktmbuf_alloc(queue->tx_pool);

	if (mbuf == NULL)
		return NULL;
	if ((piece->flags & luna_dpdk_piece_copy) != 0) {
		/* Virtio puts a header of its own in front. */
		mbuf->data_off = queue->private_memory ? RTE_PKTMBUF_HEADROOM : 0;
		memcpy(rte_pktmbuf_mtod(mbuf, void *), piece->address, piece->len);
	} else {
		struct attached *attached = rte_mbuf_to_priv(mbuf);
		void *address = (void *)(uintptr_t)piece->address;

		attached->shared.free_cb = piece_is_read;
		attached->shared.fcb_opaque = attached;
		attached->cookie = piece->cookie;
		attached->queue = queue;
		rte_mbuf_ext_refcnt_set(&attached->shared, 1);
		rte_pktmbuf_attach_extbuf(mbuf, address, iova_of(queue, address), (uint16_t)piece->len,
			&attached->shared);
	}
	mbuf->data_len = (uint16_t)piece->len;
	mbuf->pkt_len = piece->len;
	return mbuf;
}

static void ask_for_offloads(struct rte_mbuf *mbuf, const struct luna_dpdk_piece *piece)
{
	uint64_t flags = 0;

	if ((piece->flags & luna_dpdk_piece_checksum_v4) != 0)
		flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM;
	else if ((piece->flags & luna_dpdk_piece_checksum_v6) != 0)
		flags = RTE_MBUF_F_TX_IPV6 | RTE_MBUF_F_TX_TCP_CKSUM;
	if (piece->tso_segment != 0) {
		flags |= RTE_MBUF_F_TX_TCP_SEG;
		if ((flags & RTE_MBUF_F_TX_IPV4) != 0)
			flags |= RTE_MBUF_F_TX_IP_CKSUM;
		mbuf->tso_segsz = piece->tso_segment;
	}
	if (flags == 0)
		return;
	mbuf->ol_flags |= flags;
	mbuf->l2_len = piece->l2_len;
	mbuf->l3_len = piece->l3_len;
	mbuf->l4_len = piece->l4_len;
}

static void note_done(struct luna_dpdk_queue *queue, const struct luna_dpdk_piece *piece)
{
	if ((piece->flags & luna_dpdk_piece_copy) == 0 && queue->done_count < queue->done_room)
		queue->done[queue->done_count++] = piece->cookie;
}

/* How much of a piece that is copied fits behind what was copied before it, and is there now. */
static uint32_t join(struct rte_mbuf *last, const struct luna_dpdk_piece *piece)
{
	uint32_t len;

	if (last == NULL || (piece->flags & luna_dpdk_piece_copy) == 0 || RTE_MBUF_HAS_EXTBUF(last))
		return 0;
	len = RTE_MIN(piece->len, (uint32_t)rte_pktmbuf_tailroom(last));
	memcpy(rte_pktmbuf_mtod_offset(last, void *, last->data_len), piece->address, len);
	last->data_len += (uint16_t)len;
	return len;
}

/* A frame as a chain of mbufs; `*used` pieces of it. Null: there are not enough mbufs. */
static struct rte_mbuf *chain(struct luna_dpdk_queue *queue, const struct luna_dpdk_piece *pieces,
			      uint32_t count, uint32_t *used)
{
	struct rte_mbuf *first = NULL, *last = NULL;

	for (*used = 0; *used < count;) {
		const struct luna_dpdk_piece *piece = &pieces[(*used)++];
		uint32_t joined = join(last, piece);
		struct luna_dpdk_piece rest = *piece;
		struct rte_mbuf *mbuf;

		rest.address = (const uint8_t *)piece->address + joined;
		rest.len -= joined;
		if (joined != 0)
			first->pkt_len += joined;
		if (joined != 0 && rest.len == 0) {
			if ((piece->flags & luna_dpdk_piece_last) != 0)
				break;
			continue;
		}
		mbuf = mbuf_for(queue, &rest);
		if (mbuf == NULL) {
			note_done(queue, piece);
			rte_pktmbuf_free(first);
			return NULL;
		}
		if (first == NULL) {
			first = mbuf;
			ask_for_offloads(first, piece);
		} else {
			last->next = mbuf;
			first->nb_segs++;
			first->pkt_len += mbuf->data_len;
		}
		last = mbuf;
		if ((piece->flags & luna_dpdk_piece_last) != 0)
			break;
	}
	return first;
}

static uint32_t tx_burst(struct luna_dpdk_queue *queue, const struct luna_dpdk_piece *pieces,
			 uint32_t count)
{
	struct rte_mbuf *mbufs[64];
	uint32_t at = 0, used;
	uint16_t frames = 0, ready, sent;

	while (at < count && frames < RTE_DIM(mbufs)) {
		struct rte_mbuf *mbuf = chain(queue, pieces + at, count - at, &used);

		at += used;
		if (mbuf == NULL)
			break;
		mbufs[frames++] = mbuf;
	}
	/* Drivers that want pseudo-headers otherwise than we leave them see to it here. */
	ready = rte_eth_tx_prepare(queue->port, queue->number, mbufs, frames);
	sent = rte_eth_tx_burst(queue->port, queue->number, mbufs, ready);
	/* A frame that the driver will never take would stop all behind it: it is lost. */
	if (sent == ready && ready < frames)
		rte_pktmbuf_free(mbufs[sent++]);
	if (sent < frames)
		rte_pktmbuf_free_bulk(mbufs + sent, frames - sent);
	/* What never became an mbuf is complete too. */
	for (; at < count; at++)
		note_done(queue, &pieces[at]);
	return sent;
}

static uint32_t completions(struct luna_dpdk_queue *queue, uint64_t *cookies, uint32_t room)
{
	uint32_t count = queue->done_count < room ? queue->done_count : room;

	queue->done_count -= count;
	memcpy(cookies, queue->done + queue->done_count, count * sizeof(*cookies));
	return count;
}

static uint32_t rx_reclaim(struct luna_dpdk_queue *queue, void **buffers, uint32_t room)
{
	struct pool_state *state = queue->rx_pool->pool_data;
	uint32_t count = 0;

	while (count < room && state->ready.count > 0 && !queue->private_memory) {
		struct rte_mbuf *mbuf = state->ready.objects[--state->ready.count];

		buffers[count++] = mbuf->buf_addr;
		mbuf->buf_addr = NULL;
		push(&state->empty, mbuf);
	}
	return count;
}

__attribute__((visibility("default"))) extern const struct luna_dpdk_table luna_dpdk_table;
const struct luna_dpdk_table luna_dpdk_table = {
	.version = LUNA_DPDK_TABLE_VERSION,
	.dpdk_version = dpdk_version,
	.eal_init = eal_init,
	.port_probe = port_probe,
	.port_limits = port_limits,
	.port_setup = port_setup,
	.port_start = port_start,
	.port_link = port_link,
	.port_stats = port_stats,
	.port_close = port_close,
	.queue_open = queue_open,
	.queue_set_up = queue_set_up,
	.rx_wanted = rx_wanted,
	.rx_refill = rx_refill,
	.rx_burst = rx_burst,
	.rx_release = rx_release,
	.tx_burst = tx_burst,
	.completions = completions,
	.rx_reclaim = rx_reclaim,
	.queue_free = queue_free,
};
