//! The counters of all shards together.
#![forbid(unsafe_code)]

use super::{buffers, runtime};
use crate::device::DeviceStats;
use crate::stack::Counters;
use crate::zbuf::Misuse;

/// See [`collect`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// How many shards run.
    pub shards: usize,
    /// What they count.
    pub counters: Counters,
    /// What their devices count.
    pub device: DeviceStats,
    /// Connections, half-open ones included.
    pub connections: usize,
    /// TIME-WAIT records.
    pub time_wait: usize,
    /// Packet buffers in use.
    pub objects_in_use: usize,
    /// References to packet buffers that the application holds.
    pub objects_lent: usize,
    /// Buffers given back wrongly.
    pub misuse: Misuse,
}

/// Adds up what the process's shards count now.
pub fn collect() -> Totals {
    let mut all = Totals {
        shards: runtime::shards(),
        misuse: buffers::misuse(),
        ..Totals::default()
    };
    for index in 0..all.shards {
        let one = runtime::with_shard(index, |shard| {
            let (connections, time_wait) = shard.population();
            Totals {
                shards: 0,
                counters: *shard.counters(),
                device: shard.device_stats(),
                connections,
                time_wait,
                objects_in_use: shard.objects_in_use(),
                objects_lent: shard.pool().lent(),
                misuse: Misuse::default(),
            }
        });
        let Some(one) = one else { continue };
        all.counters.add(&one.counters);
        all.device.add(&one.device);
        all.connections += one.connections;
        all.time_wait += one.time_wait;
        all.objects_in_use += one.objects_in_use;
        all.objects_lent += one.objects_lent;
    }
    all
}
