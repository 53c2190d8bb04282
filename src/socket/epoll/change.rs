//! `epoll_ctl`, and what becomes of registrations when sockets are promoted.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::kernel::Inner;
use super::list::{Handle, Item, Side};
use super::set::{EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLWAKEUP, Entry, Set, State};
use crate::socket::description::{Kind, Pin};
use crate::socket::listener;
use crate::sys::{self, EpollEvent, Errno};

const ADD: i32 = libc::EPOLL_CTL_ADD;
const DEL: i32 = libc::EPOLL_CTL_DEL;
const MOD: i32 = libc::EPOLL_CTL_MOD;

/// What may come with `EPOLLEXCLUSIVE` (`EPOLLEXCLUSIVE_OK_BITS`).
const EXCLUSIVE_OK_BITS: u32 = (libc::EPOLLIN | libc::EPOLLOUT) as u32
    | EPOLLERR
    | EPOLLHUP
    | EPOLLWAKEUP
    | EPOLLET
    | EPOLLEXCLUSIVE;

/// Keys under which descriptions hold our entries; zero is nobody's.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// `epoll_ctl(2)` on a set. `target`: the description behind `fd`, if the number is ours.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`.
pub fn change(
    set: &Arc<Set>,
    operation: i32,
    fd: RawFd,
    target: Option<&Pin>,
    event: Option<EpollEvent>,
) -> Result<(), Errno> {
    let Some(pin) = target else {
        // The kernel's errors as well, in its order.
        return change_kernel(set, operation, fd, event);
    };
    if event.is_none() && operation != DEL {
        return Err(Errno::FAULT);
    }
    if !matches!(operation, ADD | DEL | MOD) {
        return Err(Errno::INVAL);
    }
    match pin.kind() {
        Kind::Kernel => change_kernel(set, operation, fd, event),
        // The placeholder would report a hang-up that cannot be deleted once its number is
        // closed; a connection of the parent's is not the child's to watch.
        Kind::Dead => Err(Errno::PERM),
        Kind::Epoll => change_nested(set, operation, fd, pin, event),
        kind @ (Kind::Provisional | Kind::Listener | Kind::Stream) => {
            if kind == Kind::Listener && operation == ADD {
                // The first use that a worker makes of its parent's listener.
                listener::revive(pin);
            }
            change_socket(set, operation, fd, pin, event.unwrap_or_default())
        }
    }
}

fn change_kernel(
    set: &Set,
    operation: i32,
    fd: RawFd,
    event: Option<EpollEvent>,
) -> Result<(), Errno> {
    sys::epoll_ctl(set.kernel.fd(), operation, fd, event)?;
    match operation {
        ADD => set.kernel.added(),
        DEL => set.kernel.removed(),
        // It may be ready now.
        _ => set.kernel.hurry(),
    }
    Ok(())
}

/// A set in a set: the kernel nests the real descriptors (and refuses cycles); the inner one is
/// made to follow its own set's queue.
fn change_nested(
    set: &Arc<Set>,
    operation: i32,
    fd: RawFd,
    pin: &Pin,
    event: Option<EpollEvent>,
) -> Result<(), Errno> {
    let nested = pin.set().ok_or(Errno::BADF)?;
    if Arc::ptr_eq(&nested, set) {
        return Err(Errno::INVAL);
    }
    change_kernel(set, operation, fd, event)?;
    let change = |count: &mut u32| match operation {
        ADD => *count += 1,
        DEL => *count = count.saturating_sub(1),
        _ => {}
    };
    {
        let mut state = set.state.lock();
        // Closed ones have left the kernel's set as well.
        let is_other = |one: &Arc<Set>| !Arc::ptr_eq(one, &nested);
        state
            .nested
            .retain(|one| one.upgrade().as_ref().is_some_and(is_other));
        if operation != DEL {
            state.nested.push(Arc::downgrade(&nested));
        }
        set.kernel.set_nested(state.nested.len() as u32);
    }
    let mut state = nested.state.lock();
    change(&mut state.nested_in);
    nested.settle(&mut state);
    Ok(())
}

fn change_socket(
    set: &Arc<Set>,
    operation: i32,
    fd: RawFd,
    pin: &Pin,
    event: EpollEvent,
) -> Result<(), Errno> {
    let events = event.events;
    if events & EPOLLEXCLUSIVE != 0
        && operation != DEL
        && (operation == MOD || events & !EXCLUSIVE_OK_BITS != 0)
    {
        return Err(Errno::INVAL);
    }
    let _changes = set.changes.lock();
    let found = {
        let state = set.state.lock();
        if state.closed {
            return Err(Errno::BADF);
        }
        state.index.get(&(fd, pin.id())).copied()
    };
    match (operation, found) {
        (ADD, Some(_)) => Err(Errno::EXIST),
        (ADD, None) => add(set, fd, pin, event),
        (_, None) => Err(Errno::NOENT),
        (MOD, Some(handle)) => modify(set, handle, fd, event),
        (_, Some(handle)) => delete(set, handle, fd, pin),
    }
}

fn add(set: &Arc<Set>, fd: RawFd, pin: &Pin, event: EpollEvent) -> Result<(), Errno> {
    let kind = pin.kind();
    if kind == Kind::Provisional {
        sys::epoll_ctl(set.kernel.fd(), ADD, fd, Some(event))?;
        set.kernel.added();
    }
    let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
    let handle = {
        let mut state = set.state.lock();
        let handle = state.items.insert(Item {
            fd,
            description: pin.id(),
            events: event.events & !EPOLLWAKEUP | EPOLLERR | EPOLLHUP,
            data: event.data,
            side: Side::Kernel,
            kernel_hint: false,
            key,
        });
        state.index.insert((fd, pin.id()), handle);
        handle
    };
    let exclusive = event.events & EPOLLEXCLUSIVE != 0;
    pin.watch(
        key,
        Arc::new(Entry {
            set: Arc::clone(set),
            handle,
            exclusive,
        }),
    );
    // Only now that we are told of everything that happens from here on: it may have been
    // promoted or closed since we looked.
    match pin.kind() {
        Kind::Provisional | Kind::Kernel => {}
        now if kind == Kind::Provisional => become_luna(set, handle, now, true),
        now => become_luna(set, handle, now, false),
    }
    if pin.is_closed() {
        pin.unwatch(key);
        forget(set, handle);
        return Err(Errno::BADF);
    }
    Ok(())
}

fn modify(set: &Arc<Set>, handle: Handle, fd: RawFd, event: EpollEvent) -> Result<(), Errno> {
    let side = {
        let mut state = set.state.lock();
        let Some(item) = state.items.get_mut(handle) else {
            return Err(Errno::NOENT);
        };
        if item.events & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::INVAL);
        }
        let side = item.side;
        if side != Side::Kernel {
            item.events = event.events & !EPOLLWAKEUP | EPOLLERR | EPOLLHUP;
            item.data = event.data;
        }
        side
    };
    if side == Side::Kernel {
        sys::epoll_ctl(set.kernel.fd(), MOD, fd, Some(event))?;
        set.kernel.hurry();
        // For when it is promoted.
        if let Some(item) = set.state.lock().items.get_mut(handle) {
            item.events = event.events & !EPOLLWAKEUP | EPOLLERR | EPOLLHUP;
            item.data = event.data;
        }
        return Ok(());
    }
    set.reconsider(handle);
    Ok(())
}

fn delete(set: &Arc<Set>, handle: Handle, fd: RawFd, pin: &Pin) -> Result<(), Errno> {
    let Some(item) = forget(set, handle) else {
        return Err(Errno::NOENT);
    };
    pin.unwatch(item.key);
    if item.side == Side::Kernel {
        return sys::epoll_ctl(set.kernel.fd(), DEL, fd, None);
    }
    Ok(())
}

/// Takes an item out of the set.
fn forget(set: &Arc<Set>, handle: Handle) -> Option<Item> {
    let mut state = set.state.lock();
    let item = state.items.remove(handle)?;
    state.index.remove(&(item.fd, item.description));
    if item.side != Side::Luna {
        set.kernel.removed();
    }
    if item.side != Side::Kernel {
        state.luna_items -= 1;
    }
    if item.side == Side::Both
        && let Some(inner) = &state.inner
    {
        inner.unwatch(item.fd);
    }
    set.settle(&mut state);
    Some(item)
}

/// An item's socket is luna's: from now on it is queued here. `registered`: the kernel's set
/// still has it.
fn become_luna(set: &Arc<Set>, handle: Handle, kind: Kind, registered: bool) {
    let mut state = set.state.lock();
    let Some(item) = state.items.get_mut(handle) else {
        return;
    };
    if item.side != Side::Kernel {
        return;
    }
    let fd = item.fd;
    item.side = if kind == Kind::Listener {
        Side::Both
    } else {
        Side::Luna
    };
    if registered {
        // Refused only if the application has closed this very number of a socket that it
        // still has under another: then the kernel keeps the registration, as it always does.
        let _ = sys::epoll_ctl(set.kernel.fd(), DEL, fd, None);
        set.kernel.removed();
    }
    if kind == Kind::Listener {
        watch_kernel_half(set, &mut state, handle, fd);
    }
    state.luna_items += 1;
    // Threads that sleep in the kernel alone must come over.
    set.settle(&mut state);
    drop(state);
    set.reconsider(handle);
}

fn watch_kernel_half(set: &Set, state: &mut State, handle: Handle, fd: RawFd) {
    if state.inner.is_none() {
        state.inner = Inner::new(&set.kernel).ok();
    }
    let watched = state
        .inner
        .as_ref()
        .map(|inner| inner.watch(fd, handle.to_bits()));
    match watched {
        Some(Ok(())) => {}
        // No descriptor to be had: then it is asked each time that it is looked at, which
        // misses only connections over loopback while nobody connects over the device.
        _ => {
            if let Some(item) = state.items.get_mut(handle) {
                item.kernel_hint = true;
            }
        }
    }
    set.kernel.added();
}

impl Set {
    /// See [`crate::socket::description::Watcher::promoted`].
    pub(super) fn promoted(self: &Arc<Self>, handle: Handle, kind: Kind) {
        let _changes = self.changes.lock();
        if matches!(kind, Kind::Listener | Kind::Stream) {
            become_luna(self, handle, kind, true);
        }
    }

    /// The inner descriptor was readable: the kernel's half of some listeners has something.
    pub(super) fn take_reports(&self) {
        let mut state = self.state.lock();
        let Some(inner) = &state.inner else { return };
        for handle in inner.reports().map(Handle::from_bits) {
            let Some(item) = state.items.get_mut(handle) else {
                continue;
            };
            item.kernel_hint = true;
            if item.events & libc::EPOLLIN as u32 != 0 {
                self.enqueue(&mut state, handle).ring();
            }
        }
    }
}
