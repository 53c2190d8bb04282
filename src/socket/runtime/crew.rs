//! Who turns the shards and who sleeps (design: run to completion on the threads that wait).
//!
//! Every thread that waits turns the shards itself: its home shard (threads are spread over the
//! shards), those that it leads, and those that nobody leads. Among the threads that *sleep*,
//! one per shard, the leader, watches the device; the others sleep on their own bells and are
//! rung by whoever turns up something for them. A leader that goes back to its application
//! gives the role up; who takes it is the first to need it: the same thread when it returns, a
//! sleeper that is rung for it (if the thread tends to stay away), or the steward.
//!
//! # Lock order
//!
//! descriptions' and epoll sets' locks → shard. A shard's wakeups are taken inside and delivered
//! after its lock is released; nothing that a shard calls takes a lock.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::engine::Engine;
use super::lane::Lane;
use super::thread::Me;
use super::wake::Wake;
use crate::stack::Wakeup;
use crate::sys::{Errno, ForkMutex, PollFd, SignalSet, ppoll};
use crate::time::{Clock, Duration, Instant, SystemClock};

/// How to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long to turn without finding anything before sleeping.
    pub(crate) spin: Duration,
    /// Never sleep.
    pub(crate) busy: bool,
    /// How long nobody may have turned a shard before the steward does.
    pub(crate) steward_after: Duration,
    /// A thread per shard turns it, and no other does.
    pub(crate) dedicated: bool,
    /// So many bytes that were written wait for the thread's next wait, and no more.
    pub(crate) defer_bytes_max: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(50),
            busy: false,
            steward_after: Duration::from_millis(1),
            dedicated: false,
            defer_bytes_max: usize::MAX,
        }
    }
}

/// What a turn over the shards did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// The time of the turn.
    pub(crate) now: Instant,
    /// There may be more to do at once.
    pub(crate) more: bool,
}

/// How long to wait for a steward that is to end, and how often to look: 200 ms in all.
const STEWARD_LOOK_EVERY: rustix::time::Timespec = rustix::time::Timespec {
    tv_sec: 0,
    tv_nsec: 200_000,
};
const STEWARD_LOOKS: u32 = 1000;

/// The shards and the threads around them.
#[derive(Debug)]
pub(crate) struct Crew<E> {
    lanes: Box<[Lane<E>]>,
    pub(crate) manner: Manner,
    /// Sleepers that lead nothing.
    followers: ForkMutex<Vec<Arc<Wake>>>,
    followers_count: AtomicUsize,
    /// Counts deliveries, so that a waiter need not look when there were none.
    deliveries: AtomicU64,
    /// The steward does not tick: a thread that leaves must ring it.
    steward_asleep: AtomicBool,
    /// It ticks seldom.
    steward_dozes: AtomicBool,
    steward_bell: Arc<Wake>,
    /// There is a steward, and it has not let go of everything yet.
    has_steward: AtomicBool,
    stop: AtomicBool,
}

impl<E: Engine> Crew<E> {
    pub(crate) fn new(lanes: Vec<Lane<E>>, manner: Manner) -> Result<Self, Errno> {
        Ok(Self {
            lanes: lanes.into_boxed_slice(),
            manner,
            followers: ForkMutex::new(Vec::new()),
            followers_count: AtomicUsize::new(0),
            deliveries: AtomicU64::new(0),
            steward_asleep: AtomicBool::new(false),
            steward_dozes: AtomicBool::new(false),
            steward_bell: Wake::new()?,
            has_steward: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    pub(crate) fn lanes(&self) -> &[Lane<E>] {
        &self.lanes
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Acquire)
    }

    pub(crate) fn steward_bell(&self) -> &Arc<Wake> {
        &self.steward_bell
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The steward's thread begins, or has let go of all that it had.
    pub(crate) fn set_steward(&self, present: bool) {
        self.has_steward.store(present, Ordering::Release);
    }

    /// After [`Crew::stop`]: waits until the steward has let go, for a bounded time.
    pub(crate) fn await_steward(&self) {
        for _ in 0..STEWARD_LOOKS {
            if !self.has_steward.load(Ordering::Acquire) {
                return;
            }
            let _interrupted = rustix::thread::nanosleep(&STEWARD_LOOK_EVERY);
        }
    }

    /// Ends the steward.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.steward_bell.ring();
        for lane in &self.lanes {
            lane.ring_leader();
        }
    }

    #[cfg(test)]
    pub(crate) fn steward_is_asleep(&self) -> bool {
        self.steward_asleep.load(Ordering::SeqCst)
    }

    /// Turns the shards that are this thread's business, and delivers what they turned up.
    pub(crate) fn turn(&self, me: &Me) -> Round {
        let now = SystemClock.now();
        me.turns();
        let home = me.home(self.lanes.len());
        let more = self.with_wakeups(me, |wakeups| {
            let mut more = false;
            for (index, lane) in self.lanes.iter().enumerate() {
                let dirty = me.take_dirty(index);
                let owner = lane.owner();
                if owner != super::thread::NOBODY {
                    // Its loop turns it; what another thread has queued there leaves at once,
                    // unless the shard's own thread has been told of it.
                    if dirty && owner != me.number && !self.manner.dedicated {
                        lane.flush(now, wakeups);
                    }
                    continue;
                }
                if !dirty && index != home {
                    let leader = lane.leader();
                    if leader != me.number && !is_absent(leader) {
                        continue;
                    }
                }
                // What this thread has queued must leave now, so it waits for its turn.
                if let Some(report) = lane.turn(now, dirty, wakeups) {
                    more |= report.more;
                }
            }
            more
        });
        Round { now, more }
    }

    /// Turns one shard unless someone else is at it.
    pub(crate) fn turn_lane(&self, me: &Me, lane: &Lane<E>, now: Instant) {
        if lane.owner() != super::thread::NOBODY {
            return;
        }
        self.with_wakeups(me, |wakeups| {
            let _ = lane.turn(now, false, wakeups);
        });
    }

    /// Turns a shard that this thread owns; whether there was anything to do.
    pub(crate) fn turn_own(&self, me: &Me, lane: &Lane<E>, now: Instant) -> bool {
        self.with_wakeups(me, |wakeups| {
            lane.turn(now, true, wakeups)
                .is_some_and(|report| !report.is_idle())
        })
    }

    /// Sends what is queued on a shard.
    pub(crate) fn flush(&self, me: &Me, index: usize) {
        let Some(lane) = self.lanes.get(index) else {
            return;
        };
        let _ = me.take_dirty(index);
        if lane.owner() == me.number || self.manner.dedicated {
            // The loop of this thread, or the shard's own, sends it at its next turn.
            return;
        }
        self.with_wakeups(me, |wakeups| lane.flush(SystemClock.now(), wakeups));
    }

    /// Sends what this thread has left for its next turn, which is not to come soon.
    pub(crate) fn flush_deferred(&self, me: &Me) {
        if !me.is_dirty() {
            return;
        }
        for index in 0..self.lanes.len() {
            if me.take_dirty(index) {
                self.flush(me, index);
            }
        }
    }

    /// Runs `f` with an empty list, and delivers what it put there.
    fn with_wakeups<R>(&self, me: &Me, f: impl FnOnce(&mut Vec<Wakeup>) -> R) -> R {
        // Only a signal handler that interrupted us here finds it borrowed.
        let Ok(mut wakeups) = me.wakeups.try_borrow_mut() else {
            let mut wakeups = Vec::new();
            let result = f(&mut wakeups);
            self.deliver(&mut wakeups);
            return result;
        };
        let result = f(&mut wakeups);
        if !wakeups.is_empty() {
            self.deliver(&mut wakeups);
        }
        result
    }

    /// A thread's loop does not own a shard any more.
    pub(crate) fn disown(&self, lane: &Lane<E>) {
        lane.disown();
        self.call_steward();
    }

    pub(crate) fn deliver(&self, wakeups: &mut Vec<Wakeup>) {
        for wakeup in wakeups.drain(..) {
            E::deliver(wakeup);
        }
        self.deliveries.fetch_add(1, Ordering::Release);
    }

    /// A thread begins to wait: it takes its home shard from nobody or the steward.
    pub(crate) fn enter(&self, me: &Me) {
        if let Some(lane) = self.lanes.get(me.home(self.lanes.len())) {
            let _ = lane.lead(me.number);
            lane.forget_server(me.number);
        }
    }

    /// A thread goes back to its application; `served`: with something to do.
    pub(crate) fn leave(&self, me: &Me, now: Instant, served: bool) {
        me.leaves(now);
        if let Some(lane) = self.lanes.get(me.home(self.lanes.len())) {
            if me.stays_away() {
                lane.forget_server(me.number);
            } else if served && self.has_steward.load(Ordering::Relaxed) {
                // Who else would notice if it did not come back?
                lane.note_server(me.number, now);
            }
        }
        let mut led = false;
        for lane in &self.lanes {
            led |= lane.resign(me.number);
        }
        if led && me.stays_away() && self.hand_over() {
            return;
        }
        // Also if this thread led nothing: it may have been rung to take over, and have found
        // events of its own instead.
        self.report_lone_shards();
    }

    /// Rings a sleeper that leads nothing, which is to take over what nobody leads; false: there is
    /// none.
    pub(super) fn hand_over(&self) -> bool {
        if !self.has_followers() {
            return false;
        }
        let follower = {
            let mut followers = self.followers.lock();
            let follower = followers.pop();
            self.followers_count
                .store(followers.len(), Ordering::SeqCst);
            follower
        };
        follower.inspect(|bell| bell.ring()).is_some()
    }

    /// The steward is about to sleep without a tick; false: there is a shard that nobody leads.
    pub(crate) fn steward_sleeps(&self) -> bool {
        // Pairs with `leave`: either it sees this, or we see that nobody leads.
        self.steward_asleep.store(true, Ordering::SeqCst);
        if self.has_lone_shard() {
            self.steward_asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// The steward is not to sleep on while nobody leads a shard.
    fn report_lone_shards(&self) {
        if self.has_lone_shard() {
            self.call_steward();
        }
    }

    fn has_lone_shard(&self) -> bool {
        let mut lanes = self.lanes.iter();
        lanes.any(|lane| lane.leader() == super::thread::NOBODY)
    }

    fn call_steward(&self) {
        self.ring_steward_if(&self.steward_asleep);
    }

    /// Rings the steward, once, if it is in this state.
    fn ring_steward_if(&self, state: &AtomicBool) {
        if state.load(Ordering::SeqCst) && state.swap(false, Ordering::SeqCst) {
            self.steward_bell.ring();
        }
    }

    /// Whether threads sleep that count on another to turn their shard.
    pub(crate) fn has_followers(&self) -> bool {
        self.followers_count.load(Ordering::SeqCst) != 0
    }

    #[cfg(test)]
    pub(crate) fn followers(&self) -> usize {
        self.followers_count.load(Ordering::SeqCst)
    }

    pub(crate) fn steward_wakes(&self) {
        self.steward_asleep.store(false, Ordering::SeqCst);
    }

    /// Sleeps until `deadline`, a frame on a shard that this thread leads, one of the
    /// descriptors in `fds` (whose `revents` are filled in), the bell, or a signal that `mask`
    /// lets through. `fds` comes back as long as it was. Returns at once if there is work.
    pub(crate) fn sleep(
        &self,
        me: &Me,
        bell: &Arc<Wake>,
        fds: &mut Vec<PollFd>,
        deadline: Instant,
        mask: SignalSet,
    ) -> Result<(), Errno> {
        let mut leads_all = true;
        let now = SystemClock.now();
        for lane in &self.lanes {
            if lane.is_served_by_another(me.number, now) {
                leads_all = false;
                let _ = lane.resign(me.number);
            } else {
                leads_all &= lane.lead(me.number);
            }
        }
        if !leads_all {
            // Also if this thread led nothing: it may have been rung to take over.
            self.report_lone_shards();
            self.follow(bell);
            // Someone may have resigned between our look and our name on the list.
            for lane in &self.lanes {
                if is_absent(lane.leader()) && !lane.is_served_by_another(me.number, now) {
                    let _ = lane.lead(me.number);
                }
            }
        }
        let led = |lane: &&Lane<E>| lane.leader() == me.number;
        let result = self.sleep_on(&led, bell, fds, deadline, mask);
        if !leads_all {
            self.unfollow(bell);
        }
        result
    }

    /// The part of sleeping that the steward shares.
    pub(crate) fn sleep_on(
        &self,
        led: &dyn Fn(&&Lane<E>) -> bool,
        bell: &Arc<Wake>,
        fds: &mut Vec<PollFd>,
        deadline: Instant,
        mask: SignalSet,
    ) -> Result<(), Errno> {
        let own = fds.len();
        fds.push(readable(bell.fd()));
        let mut until = deadline;
        let mut work = false;
        for lane in self.lanes.iter().filter(led) {
            fds.extend(lane.fds().iter().copied().map(readable));
            match lane.arm() {
                Some(next) => {
                    until = until.min(next);
                    work |= !lane.sleeps_until(next, bell);
                }
                None => work = true,
            }
        }
        let mut result = Ok(());
        if !work && bell.prepare() {
            let timeout = (until != Instant::FAR_FUTURE)
                .then(|| until.saturating_since(SystemClock.now()).as_nanos());
            result = ppoll(fds, timeout, Some(mask)).map(drop);
            let rung = result.is_ok() && fds.get(own).is_some_and(|fd| fd.revents != 0);
            bell.finish(rung);
        }
        for lane in self.lanes.iter().filter(led) {
            lane.awake();
        }
        fds.truncate(own);
        result
    }

    fn follow(&self, bell: &Arc<Wake>) {
        {
            let mut followers = self.followers.lock();
            followers.push(Arc::clone(bell));
            self.followers_count
                .store(followers.len(), Ordering::SeqCst);
        }
        // Pairs with `steward_dozes`: it sees that somebody depends on it, or we see that it may
        // not look for a while.
        self.ring_steward_if(&self.steward_dozes);
    }

    /// A thread has ended, maybe amid a wait: nobody need count on it.
    pub(crate) fn thread_ended(&self, number: u32) {
        for lane in &self.lanes {
            lane.forget_server(number);
            let _ = lane.resign(number);
        }
        self.report_lone_shards();
    }

    /// The steward will look less often than it would if threads slept that count on others;
    /// false: there are some.
    pub(crate) fn steward_dozes(&self, dozes: bool) -> bool {
        self.steward_dozes.store(dozes, Ordering::SeqCst);
        !dozes || !self.has_followers()
    }

    fn unfollow(&self, bell: &Arc<Wake>) {
        let mut followers = self.followers.lock();
        followers.retain(|other| !Arc::ptr_eq(other, bell));
        self.followers_count
            .store(followers.len(), Ordering::SeqCst);
    }
}

/// Nobody's at the shard who would have to be asked.
fn is_absent(leader: u32) -> bool {
    leader == super::thread::NOBODY || leader == super::thread::STEWARD
}

fn readable(fd: RawFd) -> PollFd {
    PollFd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}
