//! `fdopen`: streams of the C library over sockets of luna's.
//!
//! The C library's own streams read and write by calls that no hook sees, so a stream over a
//! socket of luna's is one of its "cookie" streams, whose reads and writes are ours. `fileno` of
//! such a stream would fail; the number is put where it looks for one, which the cookie's own
//! functions never use.

use core::ptr;

use libc::{FILE, c_char, c_int, c_void, off64_t, size_t, ssize_t};

use crate::hook::{self, hooks};
use crate::libluna::{self, Libluna};

/// `cookie_io_functions_t`
#[repr(C)]
struct CookieFunctions {
    read: unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut off64_t, c_int) -> c_int>,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

/// The beginning of glibc's `struct _IO_FILE` (`bits/types/struct_FILE.h`, unchanged since 2.1).
#[cfg(target_env = "gnu")]
#[repr(C)]
struct FileHead {
    flags: c_int,
    pointers: [*mut c_char; 11],
    markers: *mut c_void,
    chain: *mut c_void,
    fileno: c_int,
}

unsafe extern "C" {
    fn fopencookie(
        cookie: *mut c_void,
        mode: *const c_char,
        functions: CookieFunctions,
    ) -> *mut FILE;
}

hooks! {
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE = |luna| {
        if hook::is_inside() || !luna.owns(fd) || mode.is_null() {
            return None;
        }
        let functions = CookieFunctions { read, write, seek: None, close };
        let cookie = ptr::without_provenance_mut(fd as usize);
        // SAFETY: the caller's mode, which the C library checks; the functions take the cookie
        // for what it is, a number.
        let file = unsafe { fopencookie(cookie, mode, functions) };
        #[cfg(target_env = "gnu")]
        if !file.is_null() {
            // SAFETY: a stream that was just made, of this C library, which nobody else knows yet.
            unsafe { (*file.cast::<FileHead>()).fileno = fd };
        }
        Some(file)
    }
}

/// The socket behind a cookie, if luna still has it.
fn socket(cookie: *mut c_void) -> (Option<&'static Libluna>, c_int) {
    let fd = cookie.addr() as c_int;
    (libluna::active().filter(|luna| luna.owns(fd)), fd)
}

unsafe extern "C" fn read(cookie: *mut c_void, buf: *mut c_char, len: size_t) -> ssize_t {
    let (luna, fd) = socket(cookie);
    // SAFETY: the C library's buffer.
    let ours =
        luna.and_then(|luna| unsafe { crate::io_calls::ours::read(luna, fd, buf.cast(), len) });
    // SAFETY: as above.
    ours.unwrap_or_else(|| unsafe { crate::io_calls::real::read(fd, buf.cast(), len) })
}

/// A cookie's write says 0 for an error.
unsafe extern "C" fn write(cookie: *mut c_void, buf: *const c_char, len: size_t) -> ssize_t {
    let (luna, fd) = socket(cookie);
    let ours =
        // SAFETY: the C library's buffer.
        luna.and_then(|luna| unsafe { crate::io_calls::ours::write(luna, fd, buf.cast(), len) });
    // SAFETY: as above.
    let result =
        ours.unwrap_or_else(|| unsafe { crate::io_calls::real::write(fd, buf.cast(), len) });
    result.max(0)
}

unsafe extern "C" fn close(cookie: *mut c_void) -> c_int {
    let (luna, fd) = socket(cookie);
    // SAFETY: a plain number.
    let ours = luna.and_then(|luna| unsafe { crate::fd_calls::ours::close(luna, fd) });
    // SAFETY: as above.
    ours.unwrap_or_else(|| unsafe { crate::fd_calls::real::close(fd) })
}
