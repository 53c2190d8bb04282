//! What the tests of the in-memory devices share.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Device, RxFrame, TxFrame};
use crate::zbuf::{Area, Backing, Pool, PoolConfig, Slice, ZONE_BYTES};

/// A small pool on an area of its own.
pub(crate) fn pool() -> Pool {
    let area = Area::with_backing(2 * ZONE_BYTES, Backing::Plain).unwrap();
    Pool::new(
        &area,
        PoolConfig {
            zones: 2,
            populate: false,
            ..PoolConfig::default()
        },
    )
    .unwrap()
}

/// A frame of `header` and one piece for each of `parts`.
pub(crate) fn tx_frame(pool: &mut Pool, header: &[u8], parts: &[&[u8]]) -> TxFrame {
    TxFrame {
        header: header.iter().copied().collect(),
        payload: parts
            .iter()
            .map(|part| pool.copy_in(part).unwrap())
            .collect(),
        checksum_offload: false,
        segment_bytes: 0,
        alone: false,
    }
}

/// Sends one such frame and flushes.
pub(crate) fn send(
    device: &mut dyn Device,
    pool: &mut Pool,
    header: &[u8],
    parts: &[&[u8]],
) -> usize {
    let mut frames = VecDeque::from([tx_frame(pool, header, parts)]);
    let sent = device.tx_burst(pool, &mut frames);
    device.flush(pool);
    sent
}

/// The bytes of a received frame.
pub(crate) fn rx_bytes(frame: &RxFrame) -> Vec<u8> {
    frame
        .pieces
        .iter()
        .map(Slice::as_bytes)
        .collect::<Vec<_>>()
        .concat()
}
