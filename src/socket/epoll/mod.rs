//! Epoll sets (stub).

use super::description::Pin;

/// An epoll set.
#[derive(Debug)]
pub struct Set;

/// The last descriptor of an epoll set is gone.
pub fn on_last_close(pin: &Pin) {
    let _ = pin;
}
