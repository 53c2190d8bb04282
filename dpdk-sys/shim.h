/*
 * What luna needs of DPDK, at the granularity of bursts.
 *
 * DPDK's fast calls are inline functions, which a Rust program cannot link to, and its libraries
 * take some 10 ms to load and run constructors: nothing for a library that is preloaded into
 * every program. So the C side is a shared object of its own, `libluna_dpdk.so`, the only thing
 * that is linked to DPDK, and exports one table. This header is its whole interface; the Rust side
 * of it is made by bindgen.
 */
#ifndef LUNA_DPDK_SHIM_H
#define LUNA_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* Grows with every change of this header: the two sides must be of one build. */
#define LUNA_DPDK_TABLE_VERSION 2
static const uint32_t luna_dpdk_table_version = LUNA_DPDK_TABLE_VERSION;

/* What a port can do (struct luna_dpdk_limits.features, struct luna_dpdk_setup.features). */
static const uint64_t luna_dpdk_tx_tcp_checksum = UINT64_C(1) << 0;
static const uint64_t luna_dpdk_tx_multi_segment = UINT64_C(1) << 1;
static const uint64_t luna_dpdk_tx_tso = UINT64_C(1) << 2;
static const uint64_t luna_dpdk_rx_tcp_checksum = UINT64_C(1) << 3;
static const uint64_t luna_dpdk_rx_scatter = UINT64_C(1) << 4;

/* struct luna_dpdk_segment.flags */
static const uint32_t luna_dpdk_segment_last = UINT32_C(1) << 0;
static const uint32_t luna_dpdk_segment_checksum_good = UINT32_C(1) << 1;
/* Not in our memory: copy it, then call rx_release. */
static const uint32_t luna_dpdk_segment_foreign = UINT32_C(1) << 2;

/* struct luna_dpdk_piece.flags */
static const uint16_t luna_dpdk_piece_last = 1 << 0;
/*
 * Copied: its memory is the caller's again after the call. At most luna_dpdk_copy_bytes_max, or
 * luna_dpdk_private_bytes_max at a queue with private memory. What is copied after something that
 * was copied joins it if there is room.
 */
static const uint16_t luna_dpdk_piece_copy = 1 << 1;
/* Of a frame's first piece: complete the TCP checksum of this IPv4 (or IPv6) packet. */
static const uint16_t luna_dpdk_piece_checksum_v4 = 1 << 2;
static const uint16_t luna_dpdk_piece_checksum_v6 = 1 << 3;

static const uint32_t luna_dpdk_copy_bytes_max = 256;
static const uint32_t luna_dpdk_private_bytes_max = 16384;
/* Most segments of a received frame: 64 KiB in objects of 2 KiB with their headroom. */
static const uint32_t luna_dpdk_segments_max = 48;
/* Most frames of one burst. */
static const uint32_t luna_dpdk_burst_max = 64;

/* A port's limits, before it is set up. */
struct luna_dpdk_limits {
	uint64_t features;
	uint32_t mtu_max;
	uint32_t mtu_min;
	uint16_t rx_queues_max;
	uint16_t tx_queues_max;
	uint8_t mac[6];
	uint8_t iova_is_va;
	uint8_t padding;
	char driver[32];
};

/* How a port is to be set up. */
struct luna_dpdk_setup {
	uint64_t features;
	uint32_t mtu;
	uint16_t queues;
	uint16_t padding;
};

/* How a queue is to be set up. */
struct luna_dpdk_queue_setup {
	/* The memory that frames are received into and sent from. */
	void *memory;
	uint64_t memory_bytes;
	/* Each buffer's size. */
	uint32_t buffer_bytes;
	/* Buffers that the queue may hold. */
	uint32_t rx_buffers;
	uint32_t tx_buffers;
	uint16_t tx_descriptors;
	uint16_t port;
	uint16_t queue;
	/*
	 * The device sees DPDK's own memory only (virtio-user, which shares it with its peer): all
	 * received segments are foreign, and all pieces to send are to be copied.
	 */
	uint16_t private_memory;
};

/* Part of a received frame. */
struct luna_dpdk_segment {
	void *address;
	uint32_t len;
	uint32_t flags;
};

/* Part of a frame to send. */
struct luna_dpdk_piece {
	const void *address;
	/* Comes back from `completions` when the port has read the piece; not if it was copied. */
	uint64_t cookie;
	uint32_t len;
	uint16_t flags;
	/* Of the first piece, for offloads. */
	uint8_t l2_len;
	uint8_t l3_len;
	uint8_t l4_len;
	uint8_t padding;
	/* Not zero: cut it into segments of this many bytes of payload. */
	uint16_t tso_segment;
};

struct luna_dpdk_stats {
	uint64_t rx_missed;
	uint64_t rx_no_buffer;
	uint64_t tx_errors;
};

struct luna_dpdk_queue;

/* Functions that can fail return a negative errno. */
struct luna_dpdk_table {
	uint32_t version;
	uint32_t padding;
	const char *(*dpdk_version)(void);
	/* Once per process. */
	int (*eal_init)(int argc, char **argv);
	/* Makes a device known by its devargs; its port's number. */
	int (*port_probe)(const char *devargs, const char *name);
	int (*port_limits)(uint16_t port, struct luna_dpdk_limits *limits);
	int (*port_setup)(uint16_t port, const struct luna_dpdk_setup *setup);
	int (*port_start)(uint16_t port);
	/* 1: up, 0: down. */
	int (*port_link)(uint16_t port);
	int (*port_stats)(uint16_t port, struct luna_dpdk_stats *stats);
	/* Stops the port and gives back everything that its queues held. */
	int (*port_close)(uint16_t port);

	struct luna_dpdk_queue *(*queue_open)(const struct luna_dpdk_queue_setup *setup, int *error);
	/* Sets the port's queue up. Some drivers take all their buffers then: refill it first. */
	int (*queue_set_up)(struct luna_dpdk_queue *queue);
	/* How many buffers the queue would take now. */
	uint32_t (*rx_wanted)(const struct luna_dpdk_queue *queue);
	/* Gives it buffers; how many it took. */
	uint32_t (*rx_refill)(struct luna_dpdk_queue *queue, void *const *buffers, uint32_t count);
	/* Receives; how many segments, of whole frames. */
	uint32_t (*rx_burst)(struct luna_dpdk_queue *queue, struct luna_dpdk_segment *segments,
			     uint32_t room, uint32_t frames_max);
	/* Lets go of the foreign segments of the last burst. */
	void (*rx_release)(struct luna_dpdk_queue *queue);
	/* Sends whole frames; how many it took. What it did not take is complete at once. */
	uint32_t (*tx_burst)(struct luna_dpdk_queue *queue, const struct luna_dpdk_piece *pieces,
			     uint32_t count);
	/* Cookies of what has been read; how many. */
	uint32_t (*completions)(struct luna_dpdk_queue *queue, uint64_t *cookies, uint32_t room);
	/* After port_close: the receive buffers that it still had; how many. */
	uint32_t (*rx_reclaim)(struct luna_dpdk_queue *queue, void **buffers, uint32_t room);
	void (*queue_free)(struct luna_dpdk_queue *queue);
};

/* The name of the table in the shared object: `luna_dpdk_table`. */

#endif
