//! A set: its items, its queue, its sleepers.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

use foldhash::fast::FixedState;

use super::kernel::{Inner, Kernel};
use super::list::{Handle, Item, Items, Side};
use crate::socket::description::{self, DescriptionId, Kind, Watcher};
use crate::socket::runtime::{self, wake::Wake};
use crate::stack::Ready;
use crate::sys::{self, EpollEvent, Errno, ForkMutex, OwnFd};

pub(super) const EPOLLERR: u32 = libc::EPOLLERR as u32;
pub(super) const EPOLLHUP: u32 = libc::EPOLLHUP as u32;
pub(super) const EPOLLET: u32 = libc::EPOLLET as u32;
pub(super) const EPOLLONESHOT: u32 = libc::EPOLLONESHOT as u32;
pub(super) const EPOLLEXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
pub(super) const EPOLLWAKEUP: u32 = libc::EPOLLWAKEUP as u32;

/// What is not readiness but a flag (`EP_PRIVATE_BITS`).
pub(super) const PRIVATE_BITS: u32 = EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP;

/// Readiness in the words of epoll, as `tcp_poll()` gives it: `IN` comes with `RDNORM` and `OUT`
/// with `WRNORM`.
pub(crate) const fn bits(ready: Ready) -> u32 {
    let mut bits = 0;
    if ready.contains(Ready::IN) {
        bits |= (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
    }
    if ready.contains(Ready::OUT) {
        bits |= (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;
    }
    if ready.contains(Ready::ERR) {
        bits |= EPOLLERR;
    }
    if ready.contains(Ready::HUP) {
        bits |= EPOLLHUP;
    }
    if ready.contains(Ready::RDHUP) {
        bits |= libc::EPOLLRDHUP as u32;
    }
    bits
}

/// What the application's epoll descriptors of one description stand for.
#[derive(Debug)]
pub struct Set {
    /// The kernel's half; our own duplicate of the application's descriptor.
    pub(super) kernel: Kernel,
    /// Serializes changes of the interest list.
    pub(super) changes: ForkMutex<()>,
    pub(super) state: ForkMutex<State>,
    /// How many items are queued: what a waiter looks at without the lock.
    queued: AtomicU32,
    /// Threads in a wait on this set, awake or not.
    pub(super) waiters: AtomicU32,
}

/// What is under the lock.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) items: Items,
    pub(super) index: HashMap<(RawFd, DescriptionId), Handle, FixedState>,
    /// Items of ours (not [`Side::Kernel`]).
    pub(super) luna_items: u32,
    sleepers: Vec<Sleeper>,
    pub(super) inner: Option<Inner>,
    /// Sets that are registered in this one, and may need the shards turned.
    pub(super) nested: Vec<Weak<Set>>,
    /// Sets of the application that contain this one.
    pub(super) nested_in: u32,
    /// Threads that sleep in the kernel's half alone.
    pub(super) kernel_sleepers: u32,
    /// The inner eventfd is readable.
    raised: bool,
    pub(super) closed: bool,
}

#[derive(Debug)]
struct Sleeper {
    bell: Arc<Wake>,
    /// In `epoll_wait`: one such is woken per wakeup. Others (`poll` on the set) all are.
    exclusive: bool,
}

/// Makes a set around a new kernel epoll descriptor, which goes to the application.
///
/// # Errors
///
/// Those of `epoll_create1(2)`; `EINVAL` for unknown flags.
pub fn create(flags: i32) -> Result<(RawFd, Arc<Set>), Errno> {
    let fd = sys::epoll_create1(flags)?;
    match Set::around(fd) {
        Ok(set) => Ok((fd, set)),
        Err(errno) => {
            let _ = sys::close(fd);
            Err(errno)
        }
    }
}

impl Set {
    /// A set around a kernel epoll descriptor of the application.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `EBADF`.
    pub fn around(fd: RawFd) -> Result<Arc<Self>, Errno> {
        Ok(Arc::new(Self {
            kernel: Kernel::new(OwnFd::duplicate(fd)?),
            changes: ForkMutex::new(()),
            state: ForkMutex::new(State::default()),
            queued: AtomicU32::new(0),
            waiters: AtomicU32::new(0),
        }))
    }

    /// Something of ours may be ready.
    #[inline]
    pub(crate) fn has_queued(&self) -> bool {
        self.queued.load(Ordering::Acquire) != 0
    }

    /// Some of its items are luna's, so that waiting on it takes more than the kernel.
    pub fn has_luna_items(&self) -> bool {
        let state = self.state.lock();
        state.luna_items != 0 || !state.nested.is_empty()
    }

    /// The last descriptor of the set is closed.
    pub fn close(&self) {
        let _changes = self.changes.lock();
        let items: Vec<Item> = {
            let mut state = self.state.lock();
            state.closed = true;
            state.index.clear();
            state.luna_items = 0;
            let handles = state.items.handles();
            let items = handles
                .into_iter()
                .filter_map(|h| state.items.remove(h))
                .collect();
            self.settle(&mut state);
            items
        };
        for item in items {
            if let Some(pin) = description::pin(item.description) {
                pin.unwatch(item.key);
            }
        }
    }

    /// In the child of a fork: the interest list is the parent's, and so are the sockets in it.
    /// The kernel's half is shared with the parent, as the kernel does it.
    pub fn after_fork_in_child(&self) {
        let mut state = self.state.lock();
        let inner = core::mem::take(&mut *state).inner;
        self.queued.store(0, Ordering::Release);
        self.waiters.store(0, Ordering::Relaxed);
        self.kernel.forked();
        drop(state);
        drop(inner);
    }

    /// Fills `events` from the queue; returns how many.
    ///
    /// Each item that is queued at the start is looked at once: a level-triggered one that is
    /// reported goes to the end of the queue, so that many ready items take turns.
    pub(super) fn collect(&self, events: &mut [EpollEvent]) -> usize {
        let mut state = self.state.lock();
        let mut count = 0;
        for _ in 0..state.items.queued() {
            if count == events.len() {
                break;
            }
            let Some(handle) = state.items.pop_front() else {
                break;
            };
            let Some(item) = state.items.get_mut(handle) else {
                continue;
            };
            let ready = level(item) & item.events;
            if ready == 0 {
                continue;
            }
            if let Some(event) = events.get_mut(count) {
                *event = EpollEvent {
                    events: ready,
                    data: item.data,
                };
            }
            count += 1;
            if item.events & EPOLLONESHOT != 0 {
                item.events &= PRIVATE_BITS;
            } else if item.events & EPOLLET == 0 {
                state.items.push_back(handle);
            }
        }
        // What is left may be for others who wait (as `ep_done_scan()` does).
        let more = state.items.queued() != 0;
        let bell = if more { state.next_sleeper() } else { None };
        self.settle(&mut state);
        drop(state);
        if let Some(bell) = bell {
            bell.ring();
        }
        count
    }

    /// Brings up to date what the kernel shows of the sets within this one: what made one of them
    /// readable may have been read since. (The kernel has refused loops, and nests five deep at
    /// most.)
    pub(crate) fn refresh_nested(&self) {
        if !self.kernel.has_nested() {
            return;
        }
        let nested = self.state.lock().nested.clone();
        for set in nested.iter().filter_map(Weak::upgrade) {
            set.refresh_nested();
            set.is_ready();
        }
    }

    /// Whether something of ours is ready, for `poll` on the set. Forgets what is not.
    pub(crate) fn is_ready(&self) -> bool {
        let mut state = self.state.lock();
        let mut found = false;
        for _ in 0..state.items.queued() {
            let Some(handle) = state.items.pop_front() else {
                break;
            };
            let Some(item) = state.items.get_mut(handle) else {
                continue;
            };
            if level(item) & item.events != 0 {
                // It keeps its place well enough: the order among equals is not promised.
                state.items.push_back(handle);
                found = true;
            }
        }
        self.settle(&mut state);
        found
    }

    /// The kernel's half, for `poll` on the set.
    pub(crate) fn kernel_fd(&self) -> RawFd {
        self.kernel.fd()
    }

    /// Has a bell rung when something is queued, if it is not on the list already.
    pub(crate) fn add_sleeper(&self, bell: &Arc<Wake>, exclusive: bool) {
        let mut state = self.state.lock();
        if !state.sleepers.iter().any(|s| Arc::ptr_eq(&s.bell, bell)) {
            state.sleepers.push(Sleeper {
                bell: Arc::clone(bell),
                exclusive,
            });
        }
    }

    /// No more. If it was rung meanwhile and leaves something, another must look.
    pub(crate) fn remove_sleeper(&self, bell: &Arc<Wake>) {
        let mut state = self.state.lock();
        if let Some(at) = state
            .sleepers
            .iter()
            .position(|s| Arc::ptr_eq(&s.bell, bell))
        {
            state.sleepers.remove(at);
        } else if state.items.queued() != 0
            && let Some(next) = state.next_sleeper()
        {
            drop(state);
            next.ring();
        }
    }

    /// Queues an item if its level says so; for additions and changes.
    pub(super) fn reconsider(&self, handle: Handle) {
        let mut state = self.state.lock();
        let Some(item) = state.items.get_mut(handle) else {
            return;
        };
        if item.side == Side::Kernel || level(item) & item.events == 0 {
            return;
        }
        let bells = self.enqueue(&mut state, handle);
        drop(state);
        bells.ring();
    }

    /// Queues an item and says whom to wake.
    pub(super) fn enqueue(&self, state: &mut State, handle: Handle) -> Bells {
        state.items.push_back(handle);
        if state.nested_in != 0 && state.raised {
            // An edge for whoever watches this set edge-triggered.
            if let Some(inner) = &state.inner {
                inner.raise();
            }
        }
        self.settle(state);
        state.bells()
    }

    /// Makes the queue's length and the kernel's half agree with the state.
    pub(super) fn settle(&self, state: &mut State) {
        self.queued.store(state.items.queued(), Ordering::Release);
        let raise = state.nested_in != 0 && state.items.queued() != 0
            || state.kernel_sleepers != 0 && state.luna_items != 0 && runtime::crew().is_some();
        if raise != state.raised {
            if raise && state.inner.is_none() {
                state.inner = Inner::new(&self.kernel).ok();
            }
            if let Some(inner) = &state.inner {
                if raise {
                    inner.raise();
                } else {
                    inner.clear();
                }
            }
            state.raised = raise;
        }
    }
}

/// Whom to wake, after the lock is released.
#[derive(Debug)]
pub(super) struct Bells {
    one: Option<Arc<Wake>>,
    all: Vec<Arc<Wake>>,
}

impl Bells {
    pub(super) fn ring(&self) -> bool {
        if let Some(bell) = &self.one {
            bell.ring();
        }
        for bell in &self.all {
            bell.ring();
        }
        self.one.is_some()
    }
}

impl State {
    /// One of those that sleep in `epoll_wait`: the last to come, whose caches are the warmest
    /// (the kernel's order too). It is taken off the list, so that the next wakeup goes to
    /// another.
    fn next_sleeper(&mut self) -> Option<Arc<Wake>> {
        let at = self
            .sleepers
            .iter()
            .rposition(|sleeper| sleeper.exclusive)?;
        Some(self.sleepers.remove(at).bell)
    }

    fn bells(&mut self) -> Bells {
        if self.sleepers.is_empty() {
            return Bells {
                one: None,
                all: Vec::new(),
            };
        }
        let all = self
            .sleepers
            .iter()
            .filter(|s| !s.exclusive)
            .map(|s| s.bell.clone())
            .collect();
        Bells {
            one: self.next_sleeper(),
            all,
        }
    }
}

/// What an item is ready for now, in the words of epoll. Takes the shard's lock.
pub(super) fn level(item: &mut Item) -> u32 {
    if item.events & !PRIVATE_BITS == 0 {
        return 0;
    }
    let mut ready = bits(level_of(item.description));
    if item.kernel_hint {
        let events = sys::poll_now(item.fd, libc::POLLIN).unwrap_or(0);
        if events & libc::POLLIN == 0 {
            item.kernel_hint = false;
        } else {
            ready |= bits(Ready::IN);
        }
    }
    ready
}

/// What a description is ready for now. Takes the shard's lock.
pub(crate) fn level_of(id: DescriptionId) -> Ready {
    #[cfg(test)]
    if let Some(level) = runtime::fake::level(id) {
        return level;
    }
    description::pin(id).map_or(Ready::empty(), |pin| crate::socket::polled(&pin))
}

/// A set's entry in a description's list of watchers.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) set: Arc<Set>,
    pub(super) handle: Handle,
    pub(super) exclusive: bool,
}

impl Watcher for Entry {
    fn wake(&self, edge: Ready) -> bool {
        let mut state = self.set.state.lock();
        let Some(item) = state.items.get(self.handle) else {
            return false;
        };
        if item.side == Side::Kernel || item.events & bits(edge) & !PRIVATE_BITS == 0 {
            return false;
        }
        let bells = self.set.enqueue(&mut state, self.handle);
        drop(state);
        let woken = bells.ring();
        self.exclusive && (woken || self.set.waiters.load(Ordering::Relaxed) != 0)
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    fn promoted(&self, kind: Kind) {
        self.set.promoted(self.handle, kind);
    }

    fn closed(&self) {
        let _changes = self.set.changes.lock();
        let mut state = self.set.state.lock();
        let Some(item) = state.items.remove(self.handle) else {
            return;
        };
        state.index.remove(&(item.fd, item.description));
        if item.side != Side::Kernel {
            state.luna_items -= 1;
        } else {
            self.set.kernel.removed();
        }
        self.set.settle(&mut state);
    }
}
