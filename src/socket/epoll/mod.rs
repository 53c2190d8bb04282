//! Epoll sets (stub).

/// An epoll set.
#[derive(Debug)]
pub struct Set;
