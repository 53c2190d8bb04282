//! Waiting, as the kernel's blocking calls wait.
#![forbid(unsafe_code)]

use super::description::Pin;
use super::runtime;
use crate::stack::Ready;
use crate::sys::{self, Errno};
use crate::time::{Duration, Instant};

/// Waits for readiness.
///
/// # Errors
///
/// `EAGAIN` at the deadline, `EBADF` if the description is closed meanwhile, `EINTR` if a
/// signal handler ran, unless handlers ask for calls to be restarted and there is no deadline:
/// like the kernel, which never restarts a call that has a timeout.
pub fn wait(pin: &Pin, interest: Ready, deadline: Option<Instant>) -> Result<Ready, Errno> {
    loop {
        match runtime::wait(pin, interest, deadline) {
            Err(Errno::INTR) if deadline.is_none() && sys::handlers_restart() => {
                if pin.is_closed() {
                    return Err(Errno::BADF);
                }
            }
            result => return result,
        }
    }
}

/// A limit (`SO_RCVTIMEO`, `SO_SNDTIMEO`) as a deadline from now.
pub fn deadline(limit: Option<Duration>) -> Option<Instant> {
    limit.map(|limit| runtime::now() + limit)
}
