//! The end of descriptors and of descriptions.
#![forbid(unsafe_code)]

use super::description::Pin;
use crate::stack::Ready;

/// The last descriptor of a description is gone: ends what it stood for and wakes whoever
/// waits on it.
pub(super) fn last(pin: &Pin) {
    pin.wake_sleepers();
    for watcher in pin.take_watchers() {
        watcher.closed();
    }
    let _ = Ready::empty();
}
