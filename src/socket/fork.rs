//! What a forked child may touch.
//!
//! A child of `fork` holds placeholders only: its copies of the parent's connections are dead
//! (the kernel sockets behind them answer `EPIPE` and `ENOTCONN`), and never send anything.
//! Inherited listeners keep their kernel half, and may get shards of the child's own: a parent
//! that has not used a listener itself when it forks gives its shards up. A child of `vfork` runs
//! in its parent's memory: what it closes or duplicates on its way to `exec`
//! must not be seen in our tables.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::description::{self, Kind};
use super::{buffers, connect, listener, placeholder, policy, runtime};
use crate::sys::{self, ForkState};

/// The process that the tables belong to.
static OWNER: AtomicU32 = AtomicU32::new(0);
static IS_ARMED: AtomicBool = AtomicBool::new(false);

/// Prepares for forks. Called when the first descriptor becomes ours.
pub fn arm() {
    if !IS_ARMED.swap(true, Ordering::AcqRel) {
        OWNER.store(sys::getpid(), Ordering::Release);
        let _the_handlers_do_alone = sys::fork_guard_rearm();
        sys::at_fork(before, in_parent, in_child);
    }
}

/// To be called where a call begins that uses what the process owns: finds out a child that no
/// handler has seen (`_Fork`, `clone`).
#[inline]
pub fn check() {
    if sys::fork_state() == ForkState::Child {
        become_child();
    }
}

/// Whether this is a child of `vfork`, in its parent's memory.
pub fn is_foreign_process() -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    owner != 0 && sys::fork_state() != ForkState::Child && owner != sys::getpid()
}

extern "C" fn before() {
    runtime::before_fork();
}

extern "C" fn in_parent() {
    if policy::forks_workers() {
        runtime::after_fork_parent(&listener::ports_of_workers());
    }
    let mut gave_up = false;
    for pin in description::all() {
        match pin.kind() {
            Kind::Listener if !pin.is_closed() => gave_up |= listener::after_fork_parent(&pin),
            _ => {}
        }
    }
    if gave_up && !listener::any() && !has_connections() {
        // Nothing of this process needs the device: its children may.
        runtime::retire();
    }
}

/// Whether a shard has connections, be it that they only finish sending.
fn has_connections() -> bool {
    (0..runtime::shards()).any(|shard| {
        runtime::with_shard(shard, |shard| shard.population().0).is_some_and(|count| count > 0)
    })
}

extern "C" fn in_child() {
    become_child();
}

#[cold]
fn become_child() {
    sys::fork_epoch_advance();
    let _the_handlers_do_alone = sys::fork_guard_rearm();
    OWNER.store(sys::getpid(), Ordering::Release);
    runtime::after_fork_child();
    buffers::after_fork_child();
    listener::forget_groups();
    for pin in description::all() {
        match pin.kind() {
            Kind::Stream => pin.set_kind(Kind::Dead),
            Kind::Listener => listener::after_fork_child(&pin),
            Kind::Provisional | Kind::Kernel | Kind::Dead | Kind::Epoll => {}
        }
    }
    placeholder::after_fork_child();
    connect::after_fork_child();
}
