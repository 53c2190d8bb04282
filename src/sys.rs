//! Raw system calls that no preload library can intercept, and the few process-wide tricks that
//! need `unsafe`: the fork guard and the lock that survives a fork.
//!
//! Knows nothing of sockets of ours: a number is a kernel descriptor here. What `rustix` offers
//! safely (its `linux_raw` backend issues system calls inline) is used from there; this module
//! has what it lacks, and what must work on descriptor numbers that the application owns.

mod confined;
mod event;
mod fd;
mod guard;
pub mod internal;
mod leaked;
mod lock;
mod memory;
#[cfg(test)]
pub(crate) mod signals;

pub use confined::{Confined, Entered};
pub use event::*;
pub use fd::*;
pub use guard::{ForkState, fork_guard_rearm, fork_state};
pub use leaked::Leaked;
pub use lock::{ForkMutex, ForkMutexGuard, fork_epoch, fork_epoch_advance};
pub use memory::{advise_huge, prefetch, prefetch_bytes};

/// A Linux error number.
pub type Errno = rustix::io::Errno;

/// Issues a system call.
///
/// # Safety
///
/// As for the system call `number` with these arguments: pointers among them must be valid for
/// what the kernel reads and writes there. (An invalid one gives `EFAULT`, but a valid pointer
/// to the wrong object is overwritten.)
///
/// # Errors
///
/// What the kernel answers.
#[inline]
pub unsafe fn raw(number: syscalls::Sysno, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for the arguments.
    let result =
        unsafe { syscalls::syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    result.map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}

/// A descriptor of the BPF link with this kernel id (`BPF_LINK_GET_FD_BY_ID`, which the BPF library
/// does not offer).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOENT`: there is none, or not any more.
pub fn bpf_link_by_id(id: u32) -> Result<std::os::fd::OwnedFd, Errno> {
    use std::os::fd::FromRawFd as _;
    const BPF_LINK_GET_FD_BY_ID: usize = 30;
    // The beginning of `union bpf_attr`: the id, two fields of other commands, flags.
    let attributes = [id, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes of the live array as it is told.
    let fd = unsafe {
        let address = attributes.as_ptr().expose_provenance();
        let size = size_of_val(&attributes);
        raw(
            syscalls::Sysno::bpf,
            [BPF_LINK_GET_FD_BY_ID, address, size, 0, 0, 0],
        )
    }?;
    // SAFETY: a fresh descriptor that nobody else knows. (BPF descriptors are close-on-exec.)
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
}

/// Sets the calling thread's `errno`.
pub fn set_errno(errno: Errno) {
    // SAFETY: libc returns the address of this thread's errno, valid for its whole life.
    unsafe { *libc::__errno_location() = errno.raw_os_error() };
}

/// The calling thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: as in `set_errno`.
    unsafe { *libc::__errno_location() }
}

/// Registers handlers to run around `fork()`: before it, after it in the parent, after it in
/// the child. They run in every later `fork` (not in `vfork`, `_Fork` or `clone`).
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    // SAFETY: the handlers are `extern "C"` functions without arguments that live as long as
    // the program. Failure (ENOMEM) leaves the fork guard to find the child out.
    let _unregistered_on_failure =
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// Ends the process at once, without running its exit handlers.
pub fn exit_group(code: i32) -> ! {
    loop {
        // SAFETY: no pointers.
        let _does_not_return = unsafe {
            raw(
                syscalls::Sysno::exit_group,
                [code as isize as usize, 0, 0, 0, 0, 0],
            )
        };
    }
}

/// Whether every signal handler that the application has installed asks for interrupted calls
/// to be restarted (`SA_RESTART`). Only then is it right to go on after an interruption: which
/// of several handlers ran cannot be known. Handlers of faults do not count: what raises those
/// is not waiting.
pub fn handlers_restart() -> bool {
    let faults = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGABRT,
    ];
    let mut signals = (1..libc::SIGRTMAX()).filter(|signal| !faults.contains(signal));
    signals.all(|signal| {
        // SAFETY: all-zero bytes are a valid `struct sigaction`.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        // SAFETY: only reads the current action into a live struct.
        let known = unsafe { libc::sigaction(signal, core::ptr::null(), &mut action) } == 0;
        let handled =
            known && action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN;
        !handled || action.sa_flags & libc::SA_RESTART != 0
    })
}
