//! Who turns the shards (stub; the signatures are what the socket layer calls).

use crate::stack::{Ready, Shard};
use crate::sys::Errno;
use crate::time::Instant;

use super::description::Pin;

/// Waits until a description has some readiness in `interest` (`ERR` and `HUP` always count),
/// the deadline passes (`EAGAIN`), a signal arrives (`EINTR`) or the description is closed
/// (`EBADF`). For a listener the kernel half (`pin.fd()`) counts too.
pub fn wait(pin: &Pin, interest: Ready, deadline: Option<Instant>) -> Result<Ready, Errno> {
    let _ = (pin, interest, deadline);
    Err(Errno::AGAIN)
}

/// Something was queued on a shard by a call: send now, or leave it to this thread's next
/// `epoll_wait`.
pub fn after_write(shard: usize) {
    let _ = shard;
}

/// Runs `f` on a shard; `None` if the runtime is not up.
pub fn with_shard<R: Send>(index: usize, f: impl FnOnce(&mut Shard) -> R + Send) -> Option<R> {
    let _ = (index, f);
    None
}

/// How many shards there are; 0 before the start.
pub fn shards() -> usize {
    0
}

/// The present.
pub fn now() -> Instant {
    Instant::ZERO
}
