//! The end of the process: what the application has written must still arrive.
//!
//! The kernel goes on sending for a process that has ended; we end with it, and what is then on
//! its way meets the kernel's RST. So an orderly exit closes what is open and waits, for a while,
//! until the peers have acknowledged everything. A process that is killed, or that leaves by
//! `_exit`, gives its peers a reset; `docs/COMPATIBILITY.md` says so.
#![forbid(unsafe_code)]

use super::description::{self, Kind};
use super::{close, fork, runtime, table};
use crate::sys;
use crate::time::Duration;

/// Four retransmissions at a 200 ms timeout. Who has not answered by then is gone.
const WAIT_AT_MOST: Duration = Duration::from_secs(5);
/// How often to look; the steward does the work.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Closes every connection and waits until nothing is undelivered.
pub fn drain() {
    if runtime::shards() == 0 || fork::is_foreign_process() {
        return;
    }
    fork::check();
    for (_, id) in table::ours(0, u32::MAX) {
        if let Some(pin) = description::pin(id)
            && pin.kind() == Kind::Stream
        {
            close::stream(&pin);
        }
    }
    let now = runtime::now();
    for index in 0..runtime::shards() {
        let _closed = runtime::with_shard(index, |shard| shard.close_inline(now));
    }
    let give_up = now + WAIT_AT_MOST;
    // In a callback of an event loop the shard stands still, and waiting would not help.
    while undelivered() && !runtime::is_in_callback() && runtime::now() < give_up {
        // A signal that ends the wait early only makes the next look come sooner.
        let _ = sys::ppoll(&mut [], Some(LOOK_EVERY.as_nanos()), None);
    }
}

fn undelivered() -> bool {
    (0..runtime::shards()).any(|index| {
        let now = runtime::now();
        runtime::with_shard(index, |shard| {
            shard.flush(now);
            shard.has_undelivered()
        })
        .unwrap_or(false)
    })
}
