//! Signals, for tests of what they interrupt.

use super::raw;

extern "C" fn nothing(_signal: i32) {}

/// Installs a handler that does nothing.
pub(crate) fn handle(signal: i32, flags: i32) {
    // SAFETY: a zeroed sigaction is valid, and the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(
            libc::sigaction(signal, &raw const action, core::ptr::null_mut()),
            0
        );
    }
}

/// The calling thread, for [`send`].
pub(crate) fn this_thread() -> usize {
    rustix::thread::gettid().as_raw_nonzero().get() as usize
}

/// Sends a signal to one thread of this process.
pub(crate) fn send(thread: usize, signal: i32) {
    let process = super::getpid() as usize;
    // SAFETY: no pointers.
    let sent = unsafe {
        raw(
            syscalls::Sysno::tgkill,
            [process, thread, signal as usize, 0, 0, 0],
        )
    };
    assert_eq!(sent, Ok(0));
}
