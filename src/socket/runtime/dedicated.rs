//! Dedicated mode (LUNA §5.2): a thread of our own per shard does all its input, output and
//! protocol; the application's threads sleep until they are rung.
//!
//! The thread owns its shard as an event loop does ([`Lane::own`]): nobody else turns it or
//! watches its device. What the application queues makes the shard's deadline come, which wakes
//! the thread if it sleeps.
#![forbid(unsafe_code)]

use core::ops::Deref;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::crew::Crew;
use super::engine::Engine;
use super::lane::Lane;
use super::thread::{Me, with_me};
use super::wake::Wake;
use crate::sys::{SignalSet, set_signal_mask};
use crate::time::{Clock, Instant, SystemClock};

/// Starts a thread per shard. All signals are blocked in them: they are the application's.
pub(crate) fn start<E, K>(crew: &K) -> std::io::Result<Vec<JoinHandle<()>>>
where
    E: Engine,
    K: Deref<Target = Crew<E>> + Clone + Send + 'static,
{
    let before = set_signal_mask(SignalSet::ALL);
    let threads = (0..crew.lanes().len())
        .map(|index| {
            let crew = K::clone(crew);
            std::thread::Builder::new()
                .name(format!("luna-shard-{index}"))
                .stack_size(256 * 1024)
                .spawn(move || {
                    // Without descriptors for its bell there is no sleep: it spins.
                    let bell = Wake::new().ok();
                    if let Some(lane) = crew.lanes().get(index) {
                        with_me(|me| run(&crew, me, lane, bell.as_ref()));
                    }
                })
        })
        .collect();
    set_signal_mask(before);
    threads
}

fn run<E: Engine>(crew: &Crew<E>, me: &Me, lane: &Lane<E>, bell: Option<&Arc<Wake>>) {
    if !lane.own(me.number) {
        return;
    }
    let mut worked_at = SystemClock.now();
    let mut fds = Vec::new();
    while !crew.is_stopping() {
        let now = SystemClock.now();
        if crew.turn_own(me, lane, now) {
            worked_at = now;
            continue;
        }
        if crew.manner.busy || now.saturating_since(worked_at) < crew.manner.spin {
            if lane.is_wanted() {
                // The lock is not fair: who waits for it gets it now.
                std::thread::yield_now();
            }
            core::hint::spin_loop();
            continue;
        }
        let Some(bell) = bell else { continue };
        let own = |other: &&Lane<E>| core::ptr::eq(*other, lane);
        // An error is a signal's, and all are blocked.
        let _ = crew.sleep_on(&own, bell, &mut fds, Instant::FAR_FUTURE, SignalSet::ALL);
        worked_at = SystemClock.now();
    }
    crew.disown(lane);
}
