//! Epoll sets over luna's sockets and the kernel's descriptors together.
//!
//! An epoll descriptor of the application is a real kernel epoll descriptor. Kernel descriptors
//! are registered in it directly, with the application's data. Luna's sockets are items of a
//! [`Set`] of ours, which follows `fs/eventpoll.c`: an item is queued when a wakeup matches its
//! mask, and its level is evaluated when it is reported. One more descriptor is registered in
//! the kernel's set: the *inner* epoll descriptor ([`kernel`]), through which the kernel's half
//! of our listeners reports, and which makes the application's descriptor readable for those
//! who can only ask the kernel (a set that contains this one, a thread that sleeps in it).
//!
//! # Locks
//!
//! `Set::changes` → a description's watchers → `Set::state` → a description's own lock → shard.
//! `changes` orders additions, removals and promotions of one set; `state` is what wakeups and
//! waits need. Callbacks from descriptions arrive with none of these held.
#![forbid(unsafe_code)]

mod change;
mod kernel;
mod list;
mod set;
#[cfg(test)]
mod tests;
mod wait;

pub use change::change;
pub(crate) use set::bits;
pub use set::{Set, create};
pub use wait::wait;

use super::description::Pin;

/// The last descriptor of a set is closed.
pub fn on_last_close(pin: &Pin) {
    if let Some(set) = pin.set() {
        set.close();
    }
}
