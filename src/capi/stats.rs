//! Counters of the process.

use core::ffi::c_int;

use super::macros::entry;
use crate::socket::totals::{self, Totals};
use crate::sys::Errno;

/// What `luna_stats` tells. All but `size` and the gauges only ever grow while the stack runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(non_camel_case_types, reason = "a C name")]
pub struct luna_stats {
    /// How many bytes of this struct the library knows.
    pub size: u32,
    /// How many shards run; 0: there is no stack.
    pub shards: u32,
    /// Turns of all shards.
    pub turns: u64,
    /// Of those, turns that had nothing to do.
    pub turns_idle: u64,
    /// TCP segments received.
    pub segments_in: u64,
    /// TCP segments sent.
    pub segments_out: u64,
    /// Of those, retransmissions.
    pub retransmits: u64,
    /// Payload bytes that applications have received from the stack, and acknowledged.
    pub bytes_in: u64,
    /// Payload bytes that applications have given to the stack.
    pub bytes_out: u64,
    /// Of `bytes_in`, those that were copied on their way (0 with `luna_zreadv` and loops).
    pub bytes_copied_in: u64,
    /// Of `bytes_out`, those that were copied (0 with `luna_zwritev` and loops).
    pub bytes_copied_out: u64,
    /// Bytes that a link's driver had to copy because the link could not take them where they
    /// were, or because that is slower (AF_XDP without zero copy, several pieces in a frame).
    pub bytes_copied_by_link: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames that the link dropped because it had no buffer or no room.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Doorbells: system calls or device writes to send, or to be woken.
    pub doorbells: u64,
    /// Connections (a gauge).
    pub connections: u64,
    /// Connections in TIME-WAIT (a gauge).
    pub time_wait: u64,
    /// Packet buffers in use (a gauge).
    pub zbufs_in_use: u64,
    /// Of those, buffers of the shards that the application holds (a gauge).
    pub zbufs_lent: u64,
    /// `luna_zbuf_*` calls with an address that is not in a buffer.
    pub zbuf_foreign: u64,
    /// `luna_zbuf_*` calls on a buffer that the application does not hold: freed twice.
    pub zbuf_double_free: u64,
}

impl From<Totals> for luna_stats {
    fn from(t: Totals) -> Self {
        let (all, device) = (t.counters, t.device);
        Self {
            size: size_of::<Self>() as u32,
            shards: t.shards as u32,
            turns: all.turns,
            turns_idle: all.turns_idle,
            segments_in: all.segments_in,
            segments_out: all.segments_out,
            retransmits: all.retransmits,
            bytes_in: all.bytes_in,
            bytes_out: all.bytes_out,
            bytes_copied_in: all.bytes_copied_in,
            bytes_copied_out: all.bytes_copied_out,
            bytes_copied_by_link: device.bytes_copied,
            rx_frames: device.rx_frames,
            rx_dropped: device.rx_dropped,
            tx_frames: device.tx_frames,
            doorbells: device.doorbells,
            connections: t.connections as u64,
            time_wait: t.time_wait as u64,
            zbufs_in_use: t.objects_in_use as u64,
            zbufs_lent: t.objects_lent as u64,
            zbuf_foreign: t.misuse.foreign,
            zbuf_double_free: t.misuse.already_free,
        }
    }
}

/// Fills in the counters of this process's stack; of those that the caller knows, which are the
/// first `size` bytes of the struct.
///
/// # Safety
///
/// `stats` must have room for `size` bytes.
///
/// # Errors
///
/// `EFAULT` if `stats` is null, `EINVAL` if `size` is less than 8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_stats(stats: *mut luna_stats, size: usize) -> c_int {
    entry!({
        if stats.is_null() {
            return Err(Errno::FAULT);
        }
        if size < 8 {
            return Err(Errno::INVAL);
        }
        let told = luna_stats::from(totals::collect());
        let len = size.min(size_of::<luna_stats>());
        // SAFETY: the caller vouches for `size` bytes, and the source has at least `len`.
        unsafe {
            core::ptr::copy_nonoverlapping(
                core::ptr::from_ref(&told).cast::<u8>(),
                stats.cast::<u8>(),
                len,
            );
        }
        Ok(0)
    })
}
