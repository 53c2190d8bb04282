//! The border that no panic crosses, and the way errors become −1 and `errno`.

use core::ffi::{c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::ssize_t;

use crate::socket::report;
use crate::sys::{self, Errno};

/// A return type that has a value for "failed, see errno".
pub(super) trait Failure {
    /// That value.
    const FAILED: Self;
}

impl Failure for c_int {
    const FAILED: Self = -1;
}

impl Failure for ssize_t {
    const FAILED: Self = -1;
}

impl<T> Failure for *mut T {
    const FAILED: Self = core::ptr::null_mut();
}

const _: () = assert!(size_of::<c_long>() == size_of::<ssize_t>());

/// Runs the body of an exported function.
pub(super) fn guarded<R: Failure>(body: impl FnOnce() -> Result<R, Errno>) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(errno)) => {
            sys::set_errno(errno);
            R::FAILED
        }
        Err(_) => {
            report::defect("internal error (a panic): the call failed with ENOTRECOVERABLE");
            sys::set_errno(Errno::NOTRECOVERABLE);
            R::FAILED
        }
    }
}

/// The body of an exported function: a block that gives `Result<_, Errno>`.
macro_rules! entry {
    ($body:block) => {
        $crate::capi::macros::guarded(|| $body)
    };
}

/// A system call on a descriptor that is not ours, with its result as the C library gives it.
macro_rules! forward {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        $crate::capi::macros::forwarded(
            syscalls::Sysno::$number,
            &[$($crate::capi::macros::Word::word($argument)),*],
        )
    };
}

pub(super) use {entry, forward};

/// What fits in a register.
pub(super) trait Word {
    /// As the kernel takes it.
    fn word(self) -> usize;
}

impl Word for c_int {
    fn word(self) -> usize {
        self as isize as usize
    }
}

impl Word for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Word for usize {
    fn word(self) -> usize {
        self
    }
}

impl Word for u64 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Word for i64 {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *const T {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *mut T {
    fn word(self) -> usize {
        self as usize
    }
}

/// See `forward!`.
#[inline]
pub(super) fn forwarded(number: syscalls::Sysno, arguments: &[usize]) -> Result<usize, Errno> {
    let mut registers = [0; 6];
    for (register, argument) in registers.iter_mut().zip(arguments) {
        *register = *argument;
    }
    // SAFETY: the exported function's caller vouches for the pointers, under the contract of
    // the call that the function is named after, which is this system call.
    unsafe { sys::raw(number, registers) }
}

/// The end of a call that was forwarded.
#[inline]
pub(super) fn ended<R: Failure + TryFrom<usize>>(result: Result<usize, Errno>) -> R {
    match result {
        Ok(value) => R::try_from(value).unwrap_or(R::FAILED),
        Err(errno) => {
            sys::set_errno(errno);
            R::FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_errno() {
        let result: c_int = guarded(|| panic!("on purpose"));
        assert_eq!(result, -1);
        assert_eq!(sys::errno(), libc::ENOTRECOVERABLE);
    }

    #[test]
    fn errors_become_errno() {
        let result: ssize_t = guarded(|| Err(Errno::PIPE));
        assert_eq!(result, -1);
        assert_eq!(sys::errno(), libc::EPIPE);
        assert_eq!(guarded(|| Ok(7 as c_int)), 7);
    }
}
