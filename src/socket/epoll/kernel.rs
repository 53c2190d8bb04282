//! The kernel's half of a set, and how often to ask it.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::os::fd::RawFd;

use super::rhythm::Rhythm;
use crate::sys::{self, EpollEvent, Errno, OwnFd};
use crate::time::Instant;

/// The address of this is the data of the inner descriptor's registration: an address of ours
/// that no object of the application can have.
static INNER_MARK: u8 = 0;

/// The data of the eventfd within the inner descriptor; no item has it.
const EVENT_MARK: u64 = u64::MAX;

fn inner_mark() -> u64 {
    core::ptr::from_ref(&INNER_MARK).addr() as u64
}

/// Our duplicate of the application's epoll descriptor.
#[derive(Debug)]
pub(super) struct Kernel {
    fd: OwnFd,
    /// Registrations there that can have events, as far as we know. The kernel drops those of
    /// closed descriptors without telling, so it may be too many, never too few.
    registered: AtomicU32,
    rhythm: Rhythm,
    /// Registrations that are sets of ours: what a turn brings them shows in the kernel only.
    nested: AtomicU32,
    /// Its turn to be first, where there is room for one event only.
    first: AtomicBool,
    /// We are the child of a fork, and share `fd` with the parent.
    foreign: AtomicBool,
}

/// What the kernel had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Events of the application's, at the front of the buffer.
    pub(super) events: usize,
    /// The inner descriptor is readable.
    pub(super) inner: bool,
}

impl Kernel {
    pub(super) fn new(fd: OwnFd) -> Self {
        Self {
            fd,
            registered: AtomicU32::new(0),
            rhythm: Rhythm::default(),
            nested: AtomicU32::new(0),
            first: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.fd()
    }

    pub(super) fn forked(&self) {
        self.foreign.store(true, Ordering::Relaxed);
        // What the parent registered is in there.
        self.added();
    }

    /// One more registration, which may have events at once.
    pub(super) fn added(&self) {
        self.registered.fetch_add(1, Ordering::Relaxed);
        self.hurry();
    }

    pub(super) fn removed(&self) {
        let _ = self
            .registered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                Some(count.saturating_sub(1))
            });
    }

    pub(super) fn is_used(&self) -> bool {
        self.registered.load(Ordering::Relaxed) != 0
    }

    pub(super) fn set_nested(&self, count: u32) {
        self.nested.store(count, Ordering::Relaxed);
    }

    pub(super) fn has_nested(&self) -> bool {
        self.nested.load(Ordering::Relaxed) != 0
    }

    /// Asks at the next round.
    pub(super) fn hurry(&self) {
        self.rhythm.hurry();
    }

    /// Whether to ask the kernel in this round.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_used() && self.rhythm.is_due(now)
    }

    /// How many of `room` events may be ours when the kernel is due: it gets a quarter, and of
    /// one place every other.
    pub(super) fn share(&self, room: usize) -> usize {
        match room {
            1 => usize::from(self.first.fetch_xor(true, Ordering::Relaxed)),
            _ => room - room.div_ceil(4),
        }
    }

    /// Asks without waiting.
    pub(super) fn ask(&self, now: Instant, events: &mut [EpollEvent]) -> Result<Found, Errno> {
        let count = sys::epoll_wait(self.fd(), events, Some(0), None)?;
        let found = sift(events, count);
        self.rhythm.asked(now, count != 0);
        Ok(found)
    }
}

/// Takes the inner descriptor's event out of the first `count`.
pub(super) fn sift(events: &mut [EpollEvent], count: usize) -> Found {
    let mark = inner_mark();
    let mut kept = 0;
    let mut inner = false;
    for at in 0..count.min(events.len()) {
        let Some(event) = events.get(at).copied() else {
            break;
        };
        if event.data == mark {
            inner = true;
            continue;
        }
        if let Some(place) = events.get_mut(kept) {
            *place = event;
        }
        kept += 1;
    }
    Found {
        events: kept,
        inner,
    }
}

/// The descriptor of ours inside the application's.
#[derive(Debug)]
pub(super) struct Inner {
    epoll: OwnFd,
    event: OwnFd,
}

impl Inner {
    pub(super) fn new(kernel: &Kernel) -> Result<Self, Errno> {
        let inner = Self {
            epoll: OwnFd::epoll()?,
            event: OwnFd::eventfd()?,
        };
        let readable = |data| EpollEvent {
            events: libc::EPOLLIN as u32,
            data,
        };
        let add = libc::EPOLL_CTL_ADD;
        sys::epoll_ctl(
            inner.epoll.fd(),
            add,
            inner.event.fd(),
            Some(readable(EVENT_MARK)),
        )?;
        // Shared with a parent that knows nothing of this descriptor, it would keep the parent
        // awake for nothing. The child then does without being nested or slept on.
        if !kernel.foreign.load(Ordering::Relaxed) {
            let inner_fd = inner.epoll.fd();
            sys::epoll_ctl(kernel.fd(), add, inner_fd, Some(readable(inner_mark())))?;
        }
        Ok(inner)
    }

    pub(super) fn raise(&self) {
        sys::eventfd_raise(self.event.fd());
    }

    pub(super) fn clear(&self) {
        sys::eventfd_clear(self.event.fd());
    }

    /// Watches the kernel's half of a listener. Edge-triggered: whether connections still wait
    /// there is asked of the socket when its item is reported.
    pub(super) fn watch(&self, fd: RawFd, handle: u64) -> Result<(), Errno> {
        let event = EpollEvent {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            data: handle,
        };
        sys::epoll_ctl(self.epoll.fd(), libc::EPOLL_CTL_ADD, fd, Some(event))
    }

    pub(super) fn unwatch(&self, fd: RawFd) {
        // It is gone already if the descriptor was closed.
        let _ = sys::epoll_ctl(self.epoll.fd(), libc::EPOLL_CTL_DEL, fd, None);
    }

    /// The items whose kernel half has something.
    pub(super) fn reports(&self) -> impl Iterator<Item = u64> + use<> {
        let mut events = [EpollEvent::default(); 16];
        let count = sys::epoll_wait(self.epoll.fd(), &mut events, Some(0), None);
        events
            .into_iter()
            .take(count.unwrap_or(0))
            .map(|event| event.data)
            .filter(|data| *data != EVENT_MARK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_when_there_may_be_something() {
        let kernel = Kernel::new(OwnFd::epoll().unwrap());
        let now = Instant::from_nanos(1_000_000);
        assert!(!kernel.is_due(now), "nothing is registered");
        kernel.added();
        let mut events = [EpollEvent::default(); 4];
        assert!(kernel.is_due(now));
        kernel.ask(now, &mut events).unwrap();
        assert!(!kernel.is_due(now), "it has nothing");
        let event = OwnFd::eventfd().unwrap();
        let wanted = EpollEvent {
            events: libc::EPOLLIN as u32,
            data: 5,
        };
        sys::epoll_ctl(kernel.fd(), libc::EPOLL_CTL_ADD, event.fd(), Some(wanted)).unwrap();
        sys::eventfd_raise(event.fd());
        assert_eq!(
            kernel.ask(now, &mut events),
            Ok(Found {
                events: 1,
                inner: false
            })
        );
        assert!(kernel.is_due(now), "an event brings the next");
    }

    #[test]
    fn the_mark_is_sifted_out() {
        let event = |data| EpollEvent { events: 1, data };
        let mut events = [event(1), event(inner_mark()), event(2), event(3)];
        assert_eq!(
            sift(&mut events, 3),
            Found {
                events: 2,
                inner: true
            }
        );
        assert_eq!(events[..2], [event(1), event(2)]);
    }
}
